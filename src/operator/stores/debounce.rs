//! Batches of changes: objects that change together reconcile their PeerRelay once.

use std::{collections::HashSet, hash::Hash, pin::pin, time::Duration};

use futures::{
    Stream, StreamExt,
    future::{Either, select},
    stream,
};
use kube_runtime::watcher;
use tokio::time::sleep;

/// Time for which changes are collected after the first one. Later changes do not extend it, so a
/// change never waits longer.
const WINDOW: Duration = Duration::from_millis(300);

/// Passes one item of each `key` for all that come within [`WINDOW`], and every error.
pub(super) fn debounced<K, S, Key>(
    items: S,
    key: fn(&K) -> Key,
) -> impl Stream<Item = watcher::Result<K>> + Send + use<K, S, Key>
where
    K: Send + 'static,
    S: Stream<Item = watcher::Result<K>> + Send,
    Key: Hash + Eq + Send + 'static,
{
    let batches = stream::unfold(Box::pin(items), move |mut items| async move {
        let mut keys = HashSet::new();
        let mut batch = vec![items.next().await?];
        keys.extend(batch.iter().flatten().map(key));
        let mut end = pin!(sleep(WINDOW));
        while let Either::Left((Some(item), _)) = select(items.next(), end.as_mut()).await {
            let is_new = item.as_ref().map_or(true, |item| keys.insert(key(item)));
            if is_new {
                batch.push(item);
            }
        }
        Some((stream::iter(batch), items))
    });
    batches.flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use futures::channel::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_one_key_within_the_window_are_one() {
        let (sender, receiver) = mpsc::unbounded();
        let mut debounced = pin!(debounced(receiver, |item: &(u8, u8)| item.0));
        for item in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            sender.unbounded_send(Ok(item)).unwrap();
        }
        assert_eq!(debounced.next().await.unwrap().unwrap(), (1, 1));
        assert_eq!(debounced.next().await.unwrap().unwrap(), (2, 1));
        sender.unbounded_send(Ok((1, 4))).unwrap();
        sender
            .unbounded_send(Err(watcher::Error::NoResourceVersion))
            .unwrap();
        drop(sender);
        assert_eq!(debounced.next().await.unwrap().unwrap(), (1, 4));
        assert!(debounced.next().await.unwrap().is_err());
        assert!(debounced.next().await.is_none());
    }
}
