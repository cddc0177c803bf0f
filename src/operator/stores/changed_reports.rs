//! PeerRelays whose relays' reports may have changed.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube_runtime::reflector::ObjectRef;
use tokio::sync::Notify;

use crate::crd::PeerRelay;

/// A set of PeerRelays, each of which is taken once however often it was added.
#[derive(Debug, Default)]
pub(in crate::operator) struct ChangedReports {
    relays: Mutex<HashSet<ObjectRef<PeerRelay>>>,
    added: Notify,
}

impl ChangedReports {
    /// Adds a PeerRelay.
    pub(in crate::operator) fn add(&self, relay: ObjectRef<PeerRelay>) {
        self.lock().insert(relay);
        self.added.notify_one();
    }

    /// Takes a PeerRelay, or waits for one.
    pub(in crate::operator) async fn next(&self) -> ObjectRef<PeerRelay> {
        loop {
            // A PeerRelay that is added after this check leaves a permit.
            if let Some(relay) = self.take() {
                return relay;
            }
            self.added.notified().await;
        }
    }

    fn take(&self) -> Option<ObjectRef<PeerRelay>> {
        let mut relays = self.lock();
        let relay = relays.iter().next().cloned()?;
        relays.remove(&relay);
        Some(relay)
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ObjectRef<PeerRelay>>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn each_is_taken_once_however_often_it_was_added() {
        let changed = ChangedReports::default();
        let relay = |name: &str| ObjectRef::<PeerRelay>::new(name).within("relays");
        for name in ["edge", "lab", "edge"] {
            changed.add(relay(name));
        }
        let mut taken = [changed.next().await.name, changed.next().await.name];
        taken.sort();
        assert_eq!(taken, ["edge", "lab"]);
        assert!(changed.next().now_or_never().is_none(), "taken twice");
        changed.add(relay("edge"));
        assert_eq!(changed.next().await.name, "edge");
    }
}
