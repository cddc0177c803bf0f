//! Watches of objects without a namespace. A change of one reconciles every PeerRelay.

use std::fmt::Debug;

use futures::Stream;
use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use kube_runtime::{
    Controller,
    reflector::{ObjectRef, Store, store::WriterDropped},
    watcher,
};
use serde::de::DeserializeOwned;

use super::{
    Scope, debounce, monitoring::Monitoring, nodes, tailnet_credentials::TailnetCredentials,
};
use crate::{crd::PeerRelay, operator::queue::Queue};

/// Stores with the objects of the cluster that have no namespace.
pub(in crate::operator) struct ClusterStores {
    /// Nodes, reduced to the fields that the operator uses.
    pub(in crate::operator) nodes: Store<Node>,
    /// Kinds that may not be installed in the cluster.
    pub(in crate::operator) monitoring: Monitoring,
    /// Credentials that PeerRelays share. PeerRelays that do not refer to one may be in the same
    /// tailnet, and share its number of relays.
    pub(in crate::operator) tailnet_credentials: TailnetCredentials,
}

impl ClusterStores {
    /// Starts the watches as triggers of a controller.
    pub(super) fn watch(
        scope: &Scope,
        queue: &Queue,
        controller: Controller<PeerRelay>,
    ) -> (Self, Controller<PeerRelay>) {
        let (nodes, stream) = nodes::watch(scope);
        // A single node stands for all.
        let stream = debounce::debounced(stream, |_: &Node| ());
        let controller = for_everyone(controller, queue, stream);
        let (monitoring, stream) = Monitoring::watch(scope);
        let controller = for_everyone(controller, queue, stream);
        let (tailnet_credentials, stream) = TailnetCredentials::watch(scope);
        let controller = for_everyone(controller, queue, stream);
        let stores = Self {
            nodes,
            monitoring,
            tailnet_credentials,
        };
        (stores, controller)
    }

    pub(super) async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        self.nodes.wait_until_ready().await?;
        self.monitoring.wait_until_ready().await?;
        self.tailnet_credentials.wait_until_ready().await
    }
}

/// Makes a stream a trigger of the controller: each of its objects reconciles every PeerRelay.
fn for_everyone<K>(
    controller: Controller<PeerRelay>,
    queue: &Queue,
    stream: impl Stream<Item = watcher::Result<K>> + Send + 'static,
) -> Controller<PeerRelay>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let relays = controller.store();
    controller.watches_stream(stream, queue.recording(move |_: K| everyone(&relays)))
}

fn everyone(relays: &Store<PeerRelay>) -> Vec<ObjectRef<PeerRelay>> {
    let relays = relays.state();
    let relays = relays.iter().map(AsRef::as_ref);
    relays.map(ObjectRef::from_obj).collect()
}
