//! What the operator knows of the cluster: one watch per kind, nothing is polled.

mod change_filter;
mod debounce;
pub mod guard;
pub mod monitoring;
mod neighbours;
mod nodes;
mod pods;
mod scope;
mod stream;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Event, Node, Pod, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{Resource, ResourceExt};
use kube_runtime::{
    Controller, WatchStreamExt,
    reflector::{self, Store},
    watcher,
};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
    time::Instant,
};
use tokio::sync::OnceCell;

use self::guard::UnreadableObjects;
pub use self::scope::Scope;
use super::{
    plan::ClusterView,
    queue::Queue,
    status::{Seen, has_lost_its_pod, is_report_of},
    tailnet,
    withdrawal::View,
};
use crate::{
    crd::{PeerRelay, RelayNode},
    names,
};

/// Everything that the operator has made, as the API server last said.
pub struct Stores {
    /// All PeerRelays.
    pub(super) peer_relays: Store<PeerRelay>,
    pub(super) service_accounts: Store<ServiceAccount>,
    pub(super) roles: Store<Role>,
    pub(super) role_bindings: Store<RoleBinding>,
    pub(super) config_maps: Store<ConfigMap>,
    pub(super) services: Store<Service>,
    pub(super) network_policies: Store<NetworkPolicy>,
    pub(super) disruption_budgets: Store<PodDisruptionBudget>,
    pub(super) daemon_sets: Store<DaemonSet>,
    /// Nodes, without what nobody looks at.
    pub(super) nodes: Store<Node>,
    /// Kinds that the cluster may not know.
    pub(super) monitoring: monitoring::Monitoring,
    /// Reports of the relays.
    pub(super) relay_nodes: Store<RelayNode>,
    /// PeerRelays that cannot be read.
    pub(super) unreadable_relays: UnreadableObjects,
    /// Reports that cannot be read.
    pub(super) unreadable_nodes: UnreadableObjects,
    /// The relays' pods: identity, node and state.
    pub(super) pods: Store<Pod>,
    /// Why pods could not be made, for all DaemonSets of the cluster.
    pub(super) refusals: Store<Event>,
    /// Whether all of them have seen everything.
    ready: OnceCell<()>,
}

impl Stores {
    /// Starts the watches as triggers of a controller: a change of any child reconciles its owner.
    /// Each trigger is noted in `queue`.
    pub fn watch(scope: &Scope, queue: &Queue) -> (Self, Controller<PeerRelay>) {
        let scope = &Scope {
            client: stream::newest(&scope.client),
            ..scope.clone()
        };
        let unreadable_relays = UnreadableObjects::default();
        let (peer_relays, stream, changed) = neighbours::watch(scope, &unreadable_relays);
        let trigger_queue = queue.clone();
        let stream = stream.inspect_ok(move |relay: &PeerRelay| {
            trigger_queue.add(&reflector::ObjectRef::from_obj(relay), Instant::now());
        });
        let controller = Controller::for_stream(stream, peer_relays.clone());
        let (trigger_queue, all) = (queue.clone(), peer_relays.clone());
        let changed =
            changed.inspect(move |()| trigger_queue.add_all(&all.state(), Instant::now()));
        let controller = controller.reconcile_all_on(changed);
        let (service_accounts, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (roles, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (role_bindings, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (config_maps, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (services, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (network_policies, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (disruption_budgets, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let (daemon_sets, stream) = children(scope, queue);
        let controller = controller.owns_stream(stream);
        let relays = controller.store();
        let (nodes, stream) = nodes::watch(scope);
        // One of them is as good as all: each brings the turn of every PeerRelay.
        let stream = debounce::debounced(stream, |_: &Node| ());
        let controller =
            controller.watches_stream(stream, queue.recording(move |_: Node| everyone(&relays)));
        let relays = controller.store();
        let (monitoring, stream) = monitoring::Monitoring::watch(scope);
        let controller = controller.watches_stream(
            stream,
            queue.recording(move |_: monitoring::Definition| everyone(&relays)),
        );
        let unreadable_nodes = UnreadableObjects::default();
        let (relay_nodes, stream) = guarded(scope, &unreadable_nodes);
        let stream = debounce::debounced(stream, |node: &RelayNode| {
            (node.namespace(), node.spec.peer_relay.clone())
        });
        let controller = controller.watches_stream(
            stream,
            queue.recording(|node: RelayNode| {
                let namespace = node.metadata.namespace.unwrap_or_default();
                Some(reflector::ObjectRef::new(&node.spec.peer_relay).within(&namespace))
            }),
        );
        let (pods, stream) = pods::pods(scope);
        let relays = controller.store();
        let controller = controller.watches_stream(
            stream,
            queue.recording(move |pod| pods::concerned(&pod, &relays)),
        );
        let (refusals, stream) = pods::refusals(scope);
        let sets = daemon_sets.clone();
        let controller = controller.watches_stream(
            stream,
            queue.recording(move |event| pods::owner_of_refusal(&event, &sets)),
        );
        let stores = Self {
            peer_relays,
            service_accounts,
            roles,
            role_bindings,
            config_maps,
            services,
            network_policies,
            disruption_budgets,
            daemon_sets,
            nodes,
            monitoring,
            relay_nodes,
            unreadable_relays,
            unreadable_nodes,
            pods,
            refusals,
            ready: OnceCell::new(),
        };
        (stores, controller)
    }

    /// What the cluster says about `relay`.
    pub(super) fn seen(&self, relay: &PeerRelay) -> Seen {
        let namespace = relay.metadata.namespace.as_deref();
        let pods = self.pods_of(relay);
        let rivals = match pods.iter().any(|pod| pods::is_unscheduled(pod)) {
            true => self.pods.state(),
            false => Vec::new(),
        };
        Seen {
            daemon_sets: of(&self.daemon_sets, namespace),
            changed_sets: BTreeSet::new(),
            nodes: self.reports_of(relay, &pods),
            pods,
            rivals,
            refusals: of(&self.refusals, namespace),
            neighbours: {
                let all = self.peer_relays.state();
                tailnet::neighbours(relay, all.iter().map(AsRef::as_ref))
            },
        }
    }

    /// Reports of the relays of `relay`.
    pub(super) fn reports(&self, relay: &PeerRelay) -> Vec<Arc<RelayNode>> {
        self.reports_of(relay, &self.pods_of(relay))
    }

    fn reports_of(&self, relay: &PeerRelay, pods: &[Arc<Pod>]) -> Vec<Arc<RelayNode>> {
        let uids = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref());
        let uids: HashSet<&str> = uids.collect();
        self.relay_nodes
            .state_filter(|node| is_report_of(node, relay) && !has_lost_its_pod(node, &uids))
    }

    fn pods_of(&self, relay: &PeerRelay) -> Vec<Arc<Pod>> {
        self.pods.state_filter(|pod| {
            let label = pod.labels().get(names::PEER_RELAY_LABEL);
            pod.metadata.namespace == relay.metadata.namespace
                && label == relay.metadata.name.as_ref()
        })
    }

    /// What runs of `relay`, and where: on the nodes around it.
    pub(super) fn view(&self, relay: &PeerRelay, around: &ClusterView) -> View {
        View {
            seen: self.seen(relay),
            nodes: around.nodes.clone(),
            config_maps: of(&self.config_maps, relay.metadata.namespace.as_deref()),
        }
    }

    /// What the cluster has around a PeerRelay of `namespace`.
    pub fn cluster_view(&self, namespace: &str) -> ClusterView {
        let namespace = Some(namespace);
        ClusterView {
            monitoring_kinds: self.monitoring.kinds(),
            nodes: self.nodes.state(),
            services: of(&self.services, namespace),
            daemon_sets: of(&self.daemon_sets, namespace),
            relay_nodes: of(&self.relay_nodes, namespace),
            pods: self.pods.state(),
        }
    }

    /// Waits until every watch has seen the whole cluster once: before that, an absent object may
    /// only be one that was not seen yet.
    ///
    /// Any number may wait: a store by itself wakes only who asked it last.
    pub async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        let all = || self.wait_alone_until_ready();
        self.ready.get_or_try_init(all).await.copied()
    }

    async fn wait_alone_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        tokio::try_join!(
            self.service_accounts.wait_until_ready(),
            self.roles.wait_until_ready(),
            self.role_bindings.wait_until_ready(),
            self.config_maps.wait_until_ready(),
            self.services.wait_until_ready(),
            self.network_policies.wait_until_ready(),
            self.disruption_budgets.wait_until_ready(),
            self.daemon_sets.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.monitoring.wait_until_ready(),
            self.relay_nodes.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.refusals.wait_until_ready(),
        )
        .map(drop)
    }
}

/// The objects of a namespace.
fn of<K: Resource<DynamicType = ()> + Clone + 'static>(
    store: &Store<K>,
    namespace: Option<&str>,
) -> Vec<Arc<K>> {
    store.state_filter(|object| object.meta().namespace.as_deref() == namespace)
}

/// Every PeerRelay.
fn everyone(relays: &Store<PeerRelay>) -> Vec<reflector::ObjectRef<PeerRelay>> {
    let relays = relays.state();
    let relays = relays.iter().map(AsRef::as_ref);
    relays.map(reflector::ObjectRef::from_obj).collect()
}

/// A kind of objects in namespaces.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

type Touched<K> = watcher::Result<K>;

fn children<K>(
    scope: &Scope,
    queue: &Queue,
) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K>)
where
    K: Watched,
{
    let managed = watcher::Config::default().labels(&names::managed());
    let (store, stream) = reflect(scope, managed, |_| {});
    let queue = queue.clone();
    let recorded = stream.inspect_ok(move |child: &K| queue.add_owner(child, Instant::now()));
    (store, recorded)
}

/// `prune` drops what nobody reads before it is kept.
fn reflect<K>(
    scope: &Scope,
    config: watcher::Config,
    prune: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K>)
where
    K: Watched,
    K::DynamicType: Eq + Hash,
{
    keep(scope.events(config), reflector::store(), prune)
}

/// Watches all objects of a kind of which some may not be readable.
fn guarded<K>(
    scope: &Scope,
    unreadable: &UnreadableObjects,
) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K>)
where
    K: Watched,
    K::DynamicType: Eq + Hash,
{
    let store = reflector::store();
    let events = scope.events(watcher::Config::default());
    let events = guard::readable(events, store.0.clone(), unreadable.clone());
    keep(events, store, |_| {})
}

fn keep<K, S>(
    events: S,
    (store, writer): (Store<K>, reflector::store::Writer<K>),
    prune: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Touched<K>> + Send + use<K, S>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Eq + Hash,
    S: Stream<Item = watcher::Event<K>> + Send,
{
    let stream = events
        .map(Ok)
        .modify(move |object: &mut K| {
            object.meta_mut().managed_fields = None;
            prune(object);
        })
        .reflect(writer)
        .touched_objects();
    (store, stream)
}
