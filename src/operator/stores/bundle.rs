//! Bundles of changes: what changes together brings one turn of the PeerRelay.

use std::{collections::HashSet, hash::Hash, pin::pin, time::Duration};

use futures::{
    Stream, StreamExt,
    future::{Either, select},
    stream,
};
use kube_runtime::watcher;
use tokio::time::sleep;

/// How long changes are collected from the first one on. Later ones do not extend it, so a change is
/// never older than this, however many there are.
const WINDOW: Duration = Duration::from_millis(300);

/// Passes one item of each `key` for all that come within [`WINDOW`], and every error.
pub(super) fn bundled<K, S, Key>(
    items: S,
    key: fn(&K) -> Key,
) -> impl Stream<Item = watcher::Result<K>> + Send + use<K, S, Key>
where
    K: Send + 'static,
    S: Stream<Item = watcher::Result<K>> + Send,
    Key: Hash + Eq + Send + 'static,
{
    let bundles = stream::unfold(Box::pin(items), move |mut items| async move {
        let mut keys = HashSet::new();
        let mut bundle = vec![items.next().await?];
        keys.extend(bundle.iter().flatten().map(key));
        let mut end = pin!(sleep(WINDOW));
        while let Either::Left((Some(item), _)) = select(items.next(), end.as_mut()).await {
            let is_new = item.as_ref().map_or(true, |item| keys.insert(key(item)));
            if is_new {
                bundle.push(item);
            }
        }
        Some((stream::iter(bundle), items))
    });
    bundles.flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use futures::channel::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_one_key_within_the_window_are_one() {
        let (sender, receiver) = mpsc::unbounded();
        let mut bundled = pin!(bundled(receiver, |item: &(u8, u8)| item.0));
        for item in [(1, 1), (1, 2), (2, 1), (1, 3)] {
            sender.unbounded_send(Ok(item)).unwrap();
        }
        assert_eq!(bundled.next().await.unwrap().unwrap(), (1, 1));
        assert_eq!(bundled.next().await.unwrap().unwrap(), (2, 1));
        sender.unbounded_send(Ok((1, 4))).unwrap();
        sender
            .unbounded_send(Err(watcher::Error::NoResourceVersion))
            .unwrap();
        drop(sender);
        assert_eq!(bundled.next().await.unwrap().unwrap(), (1, 4));
        assert!(bundled.next().await.unwrap().is_err());
        assert!(bundled.next().await.is_none());
    }
}
