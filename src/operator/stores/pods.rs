//! Watches of the relays' pods and of events about refused pods, reduced to the fields that the
//! status needs.

use futures::Stream;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Container, Event, Pod, PodSpec},
};
use kube_runtime::{
    reflector::{ObjectRef, Store},
    watcher,
};

use super::{Scope, Touched, reflect};
use crate::{
    crd::PeerRelay,
    names,
    operator::host_ports::{HostPort, wanted},
};

/// Watches only the pods of the operator's DaemonSets.
pub(super) fn pods(scope: &Scope) -> (Store<Pod>, impl Stream<Item = Touched<Pod>> + Send + use<>) {
    let config = watcher::Config::default().labels(&names::managed());
    reflect(scope, config, prune_pod)
}

/// Watches the events of DaemonSets whose pods Kubernetes cannot create. These events have no label
/// of the operator. A cluster has few of them, and those of other DaemonSets are dropped.
pub(super) fn refusals(
    scope: &Scope,
) -> (
    Store<Event>,
    impl Stream<Item = Touched<Event>> + Send + use<>,
) {
    let config =
        watcher::Config::default().fields("involvedObject.kind=DaemonSet,reason=FailedCreate");
    reflect(scope, config, prune_event)
}

/// Returns the PeerRelay of a pod, and those that need one of its host ports.
pub(super) fn concerned(pod: &Pod, relays: &Store<PeerRelay>) -> Vec<ObjectRef<PeerRelay>> {
    let ports = wanted(pod);
    let rival = |relay: &PeerRelay| {
        let spec = &relay.spec;
        let metrics = spec.monitoring.port_beside(spec.port);
        ports.contains(&HostPort::udp(spec.port)) || ports.contains(&HostPort::tcp(metrics))
    };
    let rivals = relays.state_filter(rival);
    let rivals = rivals.iter().map(|relay| ObjectRef::from_obj(&**relay));
    owner_of_pod(pod).into_iter().chain(rivals).collect()
}

/// Returns the PeerRelay of a pod.
pub(super) fn owner_of_pod(pod: &Pod) -> Option<ObjectRef<PeerRelay>> {
    let labels = pod.metadata.labels.as_ref()?;
    let name = labels.get(names::PEER_RELAY_LABEL)?;
    Some(ObjectRef::new(name).within(pod.metadata.namespace.as_deref()?))
}

/// Returns the PeerRelay of the DaemonSet of an event. A DaemonSet that is not known yet triggers
/// its PeerRelay itself.
pub(super) fn owner_of_refusal(
    event: &Event,
    sets: &Store<DaemonSet>,
) -> Option<ObjectRef<PeerRelay>> {
    let about = &event.involved_object;
    let namespace = about.namespace.as_deref()?;
    let set = sets.get(&ObjectRef::new(about.name.as_deref()?).within(namespace))?;
    let name = set.metadata.labels.as_ref()?.get(names::PEER_RELAY_LABEL)?;
    Some(ObjectRef::new(name).within(namespace))
}

/// Identity, labels, node, addresses, state and ports of the node stay; and for which node it is, as
/// long as it is on none.
fn prune_pod(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.generate_name = None;
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        affinity: spec.affinity.filter(|_| spec.node_name.is_none()),
        containers: spec.containers.into_iter().filter_map(on_node).collect(),
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    let Some(status) = &mut pod.status else {
        return;
    };
    status.message = None;
    let containers = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
    ];
    for container in containers.into_iter().flatten().flatten() {
        container.image_id = String::new();
        container.container_id = None;
        container.volume_mounts = None;
        container.resources = None;
        container.allocated_resources = None;
    }
}

/// The ports that a container takes of its node, if any.
fn on_node(container: Container) -> Option<Container> {
    let mut ports = container.ports.unwrap_or_default();
    ports.retain(|port| port.host_port.is_some());
    (!ports.is_empty()).then(|| Container {
        name: container.name,
        ports: Some(ports),
        ..Container::default()
    })
}

fn prune_event(event: &mut Event) {
    event.metadata.annotations = None;
    event.metadata.labels = None;
}
