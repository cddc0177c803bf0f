//! Watches of the cluster: one for each kind. Nothing is polled.

mod change_filter;
mod changed_reports;
mod debounce;
pub mod guard;
pub mod monitoring;
mod neighbours;
mod nodes;
mod of_cluster;
mod pods;
mod scope;
mod stream;
mod tailnet_credentials;

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Instant};

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Event, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{Resource, ResourceExt};
use kube_runtime::{
    Controller, WatchStreamExt,
    reflector::{self, ObjectRef, Store, store::WriterDropped},
    watcher,
};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

pub use self::scope::Scope;
use self::{changed_reports::ChangedReports, guard::UnreadableObjects};
use super::{
    kinds::{Child, child_kinds},
    queue::Queue,
};
use crate::{
    crd::{PeerRelay, RelayNode},
    names,
};

/// Stores with the last known state of everything that the operator watches.
pub struct Stores {
    /// All PeerRelays.
    pub(super) peer_relays: Store<PeerRelay>,
    /// Objects that PeerRelays own.
    pub(super) children: ChildStores,
    /// Objects without a namespace.
    pub(super) of_cluster: of_cluster::ClusterStores,
    /// Reports of the relays.
    pub(super) relay_nodes: Store<RelayNode>,
    /// PeerRelays whose reports may have changed, for the verification of addresses.
    pub(super) changed_reports: Arc<ChangedReports>,
    /// PeerRelays that cannot be read.
    pub(super) unreadable_relays: UnreadableObjects,
    /// Reports that cannot be read.
    pub(super) unreadable_nodes: UnreadableObjects,
    /// The relays' pods: identity, node and state.
    pub(super) pods: Store<Pod>,
    /// Events about pods that could not be created, for all DaemonSets of the cluster.
    pub(super) pod_refusals: Store<Event>,
    /// Signal that every watch has read the whole cluster.
    ready: OnceCell<()>,
}

macro_rules! define_child_stores {
    ($($(#[$doc:meta])* $field:ident: $kind:ident, needs [$($need:ident),*];)*) => {
        /// The objects that PeerRelays own, by kind.
        pub(super) struct ChildStores {
            $(pub(super) $field: Store<$kind>,)*
        }

        impl ChildStores {
            /// Starts a watch for each kind; a change of an object reconciles its owner.
            fn watch(
                scope: &Scope,
                queue: &Queue,
                controller: Controller<PeerRelay>,
            ) -> (Self, Controller<PeerRelay>) {
                $(
                    let ($field, stream) = children::<$kind>(scope, queue);
                    let controller = controller.owns_stream(stream);
                )*
                (Self { $($field),* }, controller)
            }

            async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
                $(self.$field.wait_until_ready().await?;)*
                Ok(())
            }
        }
    };
}
child_kinds!(define_child_stores);

impl Stores {
    /// Starts the watches as triggers of a controller: a change of any child reconciles its owner.
    /// Each trigger is recorded in `queue`.
    pub fn watch(scope: &Scope, queue: &Queue) -> (Self, Controller<PeerRelay>) {
        let scope = &Scope {
            client: stream::newest(&scope.client),
            ..scope.clone()
        };
        let unreadable_relays = UnreadableObjects::default();
        let changed_reports = Arc::new(ChangedReports::default());
        let (peer_relays, controller) =
            watch_peer_relays(scope, queue, &unreadable_relays, &changed_reports);
        let (children, controller) = ChildStores::watch(scope, queue, controller);
        let (of_cluster, controller) = of_cluster::ClusterStores::watch(scope, queue, controller);
        let unreadable_nodes = UnreadableObjects::default();
        let (relay_nodes, stream) = watch_reports(scope, &unreadable_nodes, &changed_reports);
        let controller = controller.watches_stream(
            stream,
            queue.recording(|report: RelayNode| [reported_relay(&report)]),
        );
        let (pods, stream) = watch_pods(scope, &changed_reports);
        let relays = controller.store();
        let controller = controller.watches_stream(
            stream,
            queue.recording(move |pod| pods::concerned(&pod, &relays)),
        );
        let (pod_refusals, stream) = pods::refusals(scope);
        let sets = children.daemon_sets.clone();
        let controller = controller.watches_stream(
            stream,
            queue.recording(move |event| pods::owner_of_refusal(&event, &sets)),
        );
        let stores = Self {
            peer_relays,
            children,
            of_cluster,
            relay_nodes,
            changed_reports,
            unreadable_relays,
            unreadable_nodes,
            pods,
            pod_refusals,
            ready: OnceCell::new(),
        };
        (stores, controller)
    }

    /// Waits until every watch has read the whole cluster once. Before that, a missing object may
    /// exist.
    ///
    /// Any number of tasks may wait. A store itself wakes only the last one.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        let all = || self.wait_alone_until_ready();
        self.ready.get_or_try_init(all).await.copied()
    }

    async fn wait_alone_until_ready(&self) -> Result<(), WriterDropped> {
        tokio::try_join!(
            self.children.wait_until_ready(),
            self.of_cluster.wait_until_ready(),
            self.relay_nodes.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.pod_refusals.wait_until_ready(),
        )
        .map(drop)
    }
}

/// Watches all PeerRelays. A change reconciles the PeerRelay, or all of them if it affects others
/// in the same tailnet.
fn watch_peer_relays(
    scope: &Scope,
    queue: &Queue,
    unreadable: &UnreadableObjects,
    changed_reports: &Arc<ChangedReports>,
) -> (Store<PeerRelay>, Controller<PeerRelay>) {
    let (peer_relays, stream, changed) = neighbours::watch(scope, unreadable);
    let (own_queue, changed_reports) = (queue.clone(), changed_reports.clone());
    let stream = stream.inspect_ok(move |relay: &PeerRelay| {
        let relay = ObjectRef::from_obj(relay);
        own_queue.add(&relay, Instant::now());
        // A PeerRelay that is no longer paused may have unwritten results.
        changed_reports.add(relay);
    });
    let controller = Controller::for_stream(stream, peer_relays.clone());
    let (queue, all) = (queue.clone(), peer_relays.clone());
    let changed = changed.inspect(move |()| queue.add_all(&all.state(), Instant::now()));
    (peer_relays, controller.reconcile_all_on(changed))
}

/// Watches the reports of relays. Those of one PeerRelay that change together are one event.
fn watch_reports(
    scope: &Scope,
    unreadable: &UnreadableObjects,
    changed_reports: &Arc<ChangedReports>,
) -> (
    Store<RelayNode>,
    impl Stream<Item = Touched<RelayNode>> + Send + use<>,
) {
    let (relay_nodes, stream) = guarded(scope, unreadable);
    let stream = debounce::debounced(stream, |report: &RelayNode| {
        (report.namespace(), report.spec.peer_relay.clone())
    });
    let changed = changed_reports.clone();
    let stream = stream.inspect_ok(move |report| changed.add(reported_relay(report)));
    (relay_nodes, stream)
}

/// Watches the pods of relays: a report counts only while its pod exists.
fn watch_pods(
    scope: &Scope,
    changed_reports: &Arc<ChangedReports>,
) -> (Store<Pod>, impl Stream<Item = Touched<Pod>> + Send + use<>) {
    let (pods, stream) = pods::pods(scope);
    let changed = changed_reports.clone();
    let stream = stream.inspect_ok(move |pod| {
        let relay = pods::owner_of_pod(pod);
        relay.into_iter().for_each(|relay| changed.add(relay));
    });
    (pods, stream)
}

/// Returns the PeerRelay of a report.
fn reported_relay(report: &RelayNode) -> ObjectRef<PeerRelay> {
    let namespace = report.namespace().unwrap_or_default();
    ObjectRef::new(&report.spec.peer_relay).within(&namespace)
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
    K: Child,
{
    let managed = watcher::Config::default().labels(&names::managed());
    let (store, stream) = reflect(scope, managed, |_| {});
    let queue = queue.clone();
    let recorded = stream.inspect_ok(move |child: &K| queue.add_owner(child, Instant::now()));
    (store, recorded)
}

/// `prune` removes unused fields before an object is stored.
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

/// Watches all objects of a kind, including unreadable ones.
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
            // They are often larger than the object, and nothing here reads them.
            object.meta_mut().managed_fields = None;
            prune(object);
        })
        .reflect(writer)
        .touched_objects();
    (store, stream)
}
