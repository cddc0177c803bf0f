//! What the operator knows of the cluster: one watch per kind, nothing is polled.

use futures::Stream;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{Api, Client, Resource};
use kube_runtime::{
    Controller, WatchStreamExt,
    reflector::{self, Store},
    watcher,
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, hash::Hash};

use crate::{
    crd::{PeerRelay, RelayNode},
    names,
};

/// Everything that the operator has made, as the API server last said.
pub struct Stores {
    pub(super) service_accounts: Store<ServiceAccount>,
    pub(super) roles: Store<Role>,
    pub(super) role_bindings: Store<RoleBinding>,
    pub(super) config_maps: Store<ConfigMap>,
    pub(super) daemon_sets: Store<DaemonSet>,
    /// Reports of the relays.
    pub(super) relay_nodes: Store<RelayNode>,
}

impl Stores {
    /// Starts the watches as triggers of `controller`: a change of any child reconciles its owner.
    pub fn watch(
        client: &Client,
        controller: Controller<PeerRelay>,
    ) -> (Self, Controller<PeerRelay>) {
        let (service_accounts, stream) = children(client);
        let controller = controller.owns_stream(stream);
        let (roles, stream) = children(client);
        let controller = controller.owns_stream(stream);
        let (role_bindings, stream) = children(client);
        let controller = controller.owns_stream(stream);
        let (config_maps, stream) = children(client);
        let controller = controller.owns_stream(stream);
        let (daemon_sets, stream) = children(client);
        let controller = controller.owns_stream(stream);
        let (relay_nodes, stream) = reflect(Api::all(client.clone()), watcher::Config::default());
        let controller = controller.watches_stream(stream, |node: RelayNode| {
            let namespace = node.metadata.namespace.unwrap_or_default();
            Some(reflector::ObjectRef::new(&node.spec.peer_relay).within(&namespace))
        });
        let stores = Self {
            service_accounts,
            roles,
            role_bindings,
            config_maps,
            daemon_sets,
            relay_nodes,
        };
        (stores, controller)
    }

    /// Waits until every watch has seen the whole cluster once: before that, an absent object may
    /// only be one that was not seen yet.
    pub async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        tokio::try_join!(
            self.service_accounts.wait_until_ready(),
            self.roles.wait_until_ready(),
            self.role_bindings.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.relay_nodes.wait_until_ready(),
        )
        .map(drop)
    }
}

type Touched<K> = watcher::Result<K>;

fn children<K>(client: &Client) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    reflect(
        Api::all(client.clone()),
        watcher::Config::default().labels(&names::managed()),
    )
}

fn reflect<K>(
    api: Api<K>,
    config: watcher::Config,
) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api, config)
        .modify(|object| object.meta_mut().managed_fields = None)
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    (store, stream)
}
