//! Watches that each mend themselves.

use std::{fmt::Debug, future::ready, time::Duration};

use futures::{Stream, StreamExt};
use kube::{Api, Resource};
use kube_runtime::{
    WatchStreamExt,
    utils::Backoff,
    watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;

/// Shortest wait before a watch that failed is tried again.
const SHORTEST: Duration = Duration::from_millis(500);
/// Longest one: what happens in the meantime is seen late.
const LONGEST: Duration = Duration::from_secs(10);

/// What a watch says, without its errors: they are logged, and it begins anew after a pause.
///
/// A controller would pause all of its watches for each error of one, so that ten watches whose API
/// server was away for a moment would see nothing for minutes.
pub(super) fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, config)
        .backoff(Pauses::default())
        .filter_map(|event| {
            ready(match event {
                Ok(event) => Some(event),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch failed; trying again");
                    None
                }
            })
        })
}

/// Doubling pauses, each with a random part: replicas and watches do not come back all at once.
struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: SHORTEST }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        Some(pause.mul_f32(rand::random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        let mut pauses = Pauses::default();
        assert!(pauses.next().is_some_and(|first| first <= SHORTEST));
        for pause in pauses.by_ref().take(20) {
            assert!(pause >= SHORTEST / 2 && pause <= LONGEST);
        }
        assert!(pauses.next().is_some_and(|late| late >= LONGEST / 2));
        pauses.reset();
        assert!(pauses.next().is_some_and(|first| first <= SHORTEST));
    }
}
