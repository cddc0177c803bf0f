//! The scope of watches: the whole cluster, or some of its namespaces.

use std::{fmt::Debug, sync::Arc};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use kube_runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;

use super::stream::{events, throttle::throttled};
use crate::operator::readiness::Readiness;

/// Scope of watches, and the readiness that records their failures.
#[derive(Clone)]
pub struct Scope {
    /// Speaks to the API server.
    pub client: Client,
    /// Namespaces whose objects are watched; those of all namespaces when empty.
    pub namespaces: Arc<[String]>,
    /// Learns of failures.
    pub readiness: Readiness,
}

impl Scope {
    /// The events of the objects of a kind in the watched namespaces.
    pub(super) fn events<K>(&self, config: watcher::Config) -> BoxStream<'static, Event<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        if self.namespaces.is_empty() {
            return self.cluster_events(config);
        }
        let watch = |namespace: &String| {
            let client = throttled(&self.client);
            let api: Api<K> = Api::namespaced(client, namespace);
            let (config, readiness) = (config.clone(), self.readiness.clone());
            let open = move || events(api.clone(), config.clone(), readiness.clone()).boxed();
            Box::new(open) as Open<K>
        };
        merged(self.namespaces.iter().map(watch).collect()).boxed()
    }

    /// The events of all objects of a kind.
    pub(super) fn cluster_events<K>(&self, config: watcher::Config) -> BoxStream<'static, Event<K>>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let api = Api::all(throttled(&self.client));
        events(api, config, self.readiness.clone()).boxed()
    }
}

type Open<K> = Box<dyn Fn() -> BoxStream<'static, Event<K>> + Send>;

/// Joins several watches into one, which restarts when one of them does. Its reader gets each
/// existing object between `Init` and `InitDone`, and no earlier change of it.
fn merged<K: Send + 'static>(watches: Vec<Open<K>>) -> impl Stream<Item = Event<K>> + Send {
    let merged = Merged {
        watches,
        phase: Phase::Begins,
    };
    stream::unfold(merged, |mut merged| async move {
        merged.next().await.map(|event| (event, merged))
    })
}

struct Merged<K> {
    watches: Vec<Open<K>>,
    phase: Phase<K>,
}

enum Phase<K> {
    Begins,
    /// Watches list one after the other. The last of the streams is being listed, and the others
    /// are done.
    Lists(Vec<BoxStream<'static, Event<K>>>, Listed),
    Watches(SelectAll<BoxStream<'static, Event<K>>>),
}

/// The progress of a watch with its list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    Nothing,
    Some,
    All,
}

impl<K: Send + 'static> Merged<K> {
    async fn next(&mut self) -> Option<Event<K>> {
        loop {
            match &mut self.phase {
                Phase::Begins => {
                    self.phase = Phase::Lists(Vec::new(), Listed::All);
                    return Some(Event::Init);
                }
                Phase::Lists(begun, listed) if *listed == Listed::All => {
                    let Some(next) = self.watches.get(begun.len()) else {
                        let all = std::mem::take(begun);
                        self.phase = Phase::Watches(stream::select_all(all));
                        return Some(Event::InitDone);
                    };
                    begun.push(next());
                    *listed = Listed::Nothing;
                }
                Phase::Lists(begun, listed) => match begun.last_mut()?.next().await? {
                    Event::Init if *listed == Listed::Nothing => *listed = Listed::Some,
                    Event::InitApply(object) | Event::Apply(object) => {
                        *listed = Listed::Some;
                        return Some(Event::InitApply(object));
                    }
                    Event::InitDone => *listed = Listed::All,
                    Event::Init | Event::Delete(_) => self.phase = Phase::Begins,
                },
                Phase::Watches(all) => match all.next().await? {
                    event @ (Event::Apply(_) | Event::Delete(_)) => return Some(event),
                    Event::Init | Event::InitApply(_) | Event::InitDone => {
                        self.phase = Phase::Begins;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::stream::iter;

    use super::*;

    /// A watch that says `lives[n]` when it is begun for the `n`th time, and nothing afterwards.
    fn watch(lives: Vec<Vec<Event<u8>>>) -> Open<u8> {
        let begun = AtomicUsize::new(0);
        Box::new(move || {
            let life = lives[begun.fetch_add(1, Ordering::Relaxed).min(lives.len() - 1)].clone();
            iter(life).chain(stream::pending()).boxed()
        })
    }

    async fn said(watches: Vec<Open<u8>>, count: usize) -> String {
        let events = merged(watches).take(count).collect::<Vec<_>>().await;
        let word = |event: &Event<u8>| match event {
            Event::Init => "[".to_owned(),
            Event::InitApply(object) => format!("{object}"),
            Event::InitDone => "]".to_owned(),
            Event::Apply(object) => format!("+{object}"),
            Event::Delete(object) => format!("-{object}"),
        };
        events.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn two_watches_are_one_list_and_then_changes() {
        let one = vec![
            Event::Init,
            Event::InitApply(1),
            Event::InitDone,
            Event::Apply(3),
        ];
        let other = vec![
            Event::Init,
            Event::InitApply(2),
            Event::InitDone,
            Event::Delete(2),
        ];
        let said = said(vec![watch(vec![one]), watch(vec![other])], 6).await;
        assert!(said.starts_with("[ 1 2 ] "), "{said}");
        assert!(said.contains("+3") && said.contains("-2"), "{said}");
    }

    #[tokio::test]
    async fn all_are_listed_again_when_one_is() {
        let whole = |object| vec![Event::Init, Event::InitApply(object), Event::InitDone];
        let mut lost = whole(2);
        lost.extend([Event::Init, Event::InitApply(9)]);
        let said = said(
            vec![watch(vec![whole(1), whole(3)]), watch(vec![lost, whole(4)])],
            8,
        )
        .await;
        assert_eq!(said, "[ 1 2 ] [ 3 4 ]");
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_begun_anew() {
        let broken = vec![
            Event::Init,
            Event::InitApply(1),
            Event::Init,
            Event::InitApply(7),
        ];
        let whole = vec![Event::Init, Event::InitApply(2), Event::InitDone];
        let said = said(vec![watch(vec![broken, whole])], 5).await;
        assert_eq!(said, "[ 1 [ 2 ]");
    }
}
