//! Kinds of prometheus-operator in the cluster, and their objects.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube_runtime::{
    reflector::{self, Store},
    watcher,
};

use super::Scope;
use crate::operator::kinds::MonitoringKind;

/// A definition, without its body.
pub(super) type Definition = PartialObjectMeta<CustomResourceDefinition>;

/// Existing definitions, and the objects that are known to be up to date.
///
/// These kinds are not watched, because they may not exist. Each process reads an object once, and
/// again when the object must change.
pub struct Monitoring {
    definitions: Vec<(MonitoringKind, Store<Definition>)>,
    done: Arc<Mutex<Done>>,
}

/// Checksum of each applied object, by kind, namespace and name.
type Done = HashMap<(MonitoringKind, String, String), String>;

impl Monitoring {
    /// Starts the watches, one for each definition by its name.
    pub(super) fn watch(
        scope: &Scope,
    ) -> (
        Self,
        impl Stream<Item = watcher::Result<Definition>> + Send + use<>,
    ) {
        let mut definitions = Vec::new();
        let mut streams = Vec::new();
        for kind in MonitoringKind::ALL {
            // The ClusterRole allows this watch for two names only (`resourceNames`), and the API server
            // then requires a selector with the name.
            let by_name = format!("metadata.name={}", kind.definition());
            let config = watcher::Config::default().fields(&by_name);
            let events = scope.cluster_events(config);
            let (store, stream) = super::keep(events, reflector::store(), |_: &mut Definition| {});
            definitions.push((kind, store));
            streams.push(stream.boxed());
        }
        let done = Arc::default();
        (Self { definitions, done }, stream::select_all(streams))
    }

    /// Returns the kinds that are installed in the cluster.
    pub fn kinds(&self) -> BTreeSet<MonitoringKind> {
        let defined = self
            .definitions
            .iter()
            .filter(|(_, store)| !store.is_empty());
        defined.map(|(kind, _)| *kind).collect()
    }

    /// Returns whether an object was last applied with this checksum.
    pub fn is_done(&self, kind: MonitoringKind, namespace: &str, name: &str, sum: &str) -> bool {
        self.done()
            .get(&key(kind, namespace, name))
            .is_some_and(|done| done == sum)
    }

    /// Records that the object was applied with this checksum.
    pub fn record(&self, kind: MonitoringKind, namespace: &str, name: &str, sum: String) {
        self.done().insert(key(kind, namespace, name), sum);
    }

    /// Forgets all objects of a kind, as its definition is gone.
    pub fn forget(&self, kind: MonitoringKind) {
        self.done().retain(|(of, ..), _| *of != kind);
    }

    pub(super) async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        for (_, store) in &self.definitions {
            store.wait_until_ready().await?;
        }
        Ok(())
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(kind: MonitoringKind, namespace: &str, name: &str) -> (MonitoringKind, String, String) {
    (kind, namespace.to_owned(), name.to_owned())
}
