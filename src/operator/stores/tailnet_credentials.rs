//! Watch of the TailnetCredentials of the cluster.

use futures::Stream;
use kube_runtime::{
    reflector::{self, ObjectRef, Store},
    watcher,
};

use super::{
    Scope, Touched, debounce,
    guard::{UnreadableObjects, readable},
    keep,
};
use crate::{crd::TailnetCredential, operator::referred_credential::Referred};

/// The TailnetCredentials of the cluster.
pub(in crate::operator) struct TailnetCredentials {
    store: Store<TailnetCredential>,
    unreadable: UnreadableObjects,
}

impl TailnetCredentials {
    /// Starts the watch. Changes that come together are one event.
    pub(super) fn watch(
        scope: &Scope,
    ) -> (
        Self,
        impl Stream<Item = Touched<TailnetCredential>> + Send + use<>,
    ) {
        let unreadable = UnreadableObjects::default();
        let (store, writer) = reflector::store();
        let events = scope.cluster_events(watcher::Config::default());
        let events = readable(events, store.clone(), unreadable.clone());
        let (store, stream) = keep(events, (store, writer), |_| {});
        let stream = debounce::debounced(stream, |_: &TailnetCredential| ());
        (Self { store, unreadable }, stream)
    }

    /// Finds the TailnetCredential of this name.
    pub(in crate::operator) fn find(&self, name: &str) -> Referred {
        if let Some(found) = self.store.get(&ObjectRef::new(name)) {
            return Referred::Found(found);
        }
        let unreadable = self.unreadable.all();
        let mut unreadable = unreadable.iter();
        match unreadable.find(|object| object.metadata.name.as_deref() == Some(name)) {
            Some(object) => Referred::Unreadable(object.error.clone()),
            None => Referred::Missing,
        }
    }

    pub(super) async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.store.wait_until_ready().await
    }
}
