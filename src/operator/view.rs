//! View of the cluster for a pass over one PeerRelay, taken once per pass.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, Event, Node, Pod, Service},
};
use kube::{Resource, ResourceExt};
use kube_runtime::reflector::Store;
use serde::de::DeserializeOwned;

use super::{
    credential::Issuing,
    devices::Deleting,
    kinds::MonitoringKind,
    policy_sync::Syncing,
    referred_credential::{Referred, control_server},
    stores::Stores,
    tailnet::{self, Neighbour},
};
use crate::{
    crd::{PeerRelay, RelayNode, device::RelayDevice, grants::PolicyStatus},
    names,
};

/// State of the cluster at one moment, reduced to the parts that affect a PeerRelay. Lists have no
/// order.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// All nodes of the cluster.
    pub nodes: Vec<Arc<Node>>,
    /// Pods of the relays of all PeerRelays in the cluster.
    pub pods: Vec<Arc<Pod>>,
    /// Kinds of prometheus-operator that are installed in the cluster.
    pub monitoring_kinds: BTreeSet<MonitoringKind>,
    /// Other PeerRelays in the same tailnet.
    pub neighbours: Vec<Neighbour>,
    /// Services of the operator in the PeerRelay's namespace.
    pub services: Vec<Arc<Service>>,
    /// DaemonSets of the operator in the namespace.
    pub daemon_sets: Vec<Arc<DaemonSet>>,
    /// ConfigMaps of the operator in the namespace.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// Reports of all relays in the namespace.
    pub relay_nodes: Vec<Arc<RelayNode>>,
    /// Events about pods in the namespace that could not be created.
    pub pod_refusals: Vec<Arc<Event>>,
    /// Pods of the PeerRelay's own relays.
    pub own_pods: Vec<Arc<Pod>>,
    /// Reports of the PeerRelay's own relays, without those whose pod is gone.
    pub reports: Vec<Arc<RelayNode>>,
    /// The TailnetCredential that the PeerRelay refers to.
    pub referred: Referred,
    /// Results of the operator's attempts to create auth keys.
    pub issuing: Issuing,
    /// Devices in the status of the PeerRelay.
    pub devices: Vec<RelayDevice>,
    /// Results of the operator's attempts to delete devices.
    pub deleting: Deleting,
    /// State of `grants.sync` in the status of the PeerRelay.
    pub policy: Option<PolicyStatus>,
    /// Results of the operator's comparisons with the tailnet policy.
    pub syncing: Syncing,
}

/// Results of the operator's requests to the API of a tailnet.
#[derive(Debug, Clone, Default)]
pub struct ApiResults {
    /// Results of attempts to create auth keys.
    pub issuing: Issuing,
    /// Results of attempts to delete devices.
    pub deleting: Deleting,
    /// Results of comparisons with the tailnet policy.
    pub syncing: Syncing,
}

impl ClusterView {
    /// Reads the entry `key` of the ConfigMap `name`, as the operator has written it. It is empty if there
    /// is none that can be parsed.
    pub fn entry<T: DeserializeOwned + Default>(&self, name: &str, key: &str) -> T {
        let text = self.config_map_text(name, key);
        text.and_then(|text| serde_yaml::from_str(text).ok())
            .unwrap_or_default()
    }

    /// Reads the text of the entry `key` of the ConfigMap `name`.
    pub fn config_map_text(&self, name: &str, key: &str) -> Option<&str> {
        let mut maps = self.config_maps.iter();
        let map = maps.find(|map| map.name_any() == name)?;
        map.data.as_ref()?.get(key).map(String::as_str)
    }
}

/// Takes the view of `relay`.
pub fn view(stores: &Stores, results: ApiResults, relay: &PeerRelay) -> ClusterView {
    let ApiResults {
        issuing,
        deleting,
        syncing,
    } = results;
    let status = relay.status.as_ref();
    let namespace = relay.metadata.namespace.as_deref();
    let own_pods = own_pods(stores, relay);
    let find = |relay: &PeerRelay| match &relay.spec.tailnet.credentials_ref {
        Some(reference) => stores.of_cluster.tailnet_credentials.find(&reference.name),
        None => Referred::Unknown,
    };
    ClusterView {
        nodes: stores.of_cluster.nodes.state(),
        pods: stores.pods.state(),
        monitoring_kinds: stores.of_cluster.monitoring.kinds(),
        neighbours: {
            let all = stores.peer_relays.state();
            let server = |relay: &PeerRelay| control_server(&relay.spec.tailnet, &find(relay));
            tailnet::neighbours(relay, all.iter().map(AsRef::as_ref), server)
        },
        services: in_namespace(&stores.children.services, namespace),
        daemon_sets: in_namespace(&stores.children.daemon_sets, namespace),
        config_maps: in_namespace(&stores.children.config_maps, namespace),
        relay_nodes: in_namespace(&stores.relay_nodes, namespace),
        pod_refusals: in_namespace(&stores.pod_refusals, namespace),
        reports: reports_of(stores, relay, &own_pods),
        own_pods,
        referred: find(relay),
        issuing,
        devices: status.map(|s| s.devices.clone()).unwrap_or_default(),
        deleting,
        policy: status.and_then(|status| status.policy.clone()),
        syncing,
    }
}

/// Reports of the relays of `relay`, without those whose pod is gone.
pub fn reports(stores: &Stores, relay: &PeerRelay) -> Vec<Arc<RelayNode>> {
    reports_of(stores, relay, &own_pods(stores, relay))
}

fn reports_of(stores: &Stores, relay: &PeerRelay, pods: &[Arc<Pod>]) -> Vec<Arc<RelayNode>> {
    let uids = pods.iter().filter_map(|pod| pod.metadata.uid.as_deref());
    let uids: HashSet<&str> = uids.collect();
    let reports = &stores.relay_nodes;
    reports.state_filter(|report| is_report_of(report, relay) && !has_lost_its_pod(report, &uids))
}

fn own_pods(stores: &Stores, relay: &PeerRelay) -> Vec<Arc<Pod>> {
    stores.pods.state_filter(|pod| {
        let label = pod.labels().get(names::PEER_RELAY_LABEL);
        pod.metadata.namespace == relay.metadata.namespace && label == relay.metadata.name.as_ref()
    })
}

fn in_namespace<K: Resource<DynamicType = ()> + Clone + 'static>(
    store: &Store<K>,
    namespace: Option<&str>,
) -> Vec<Arc<K>> {
    store.state_filter(|object| object.meta().namespace.as_deref() == namespace)
}

fn is_report_of(report: &RelayNode, relay: &PeerRelay) -> bool {
    report.metadata.namespace == relay.metadata.namespace
        && Some(&report.spec.peer_relay) == relay.metadata.name.as_ref()
}

/// Returns whether the pod of a report is not among those with these UIDs. Kubernetes may remove
/// such reports late: for half a minute after the definition of RelayNodes is installed, the
/// garbage collector misses them.
fn has_lost_its_pod(report: &RelayNode, pods: &HashSet<&str>) -> bool {
    let mut owners = report.owner_references().iter();
    let pod = owners.find(|owner| owner.kind == "Pod");
    pod.is_some_and(|pod| !pods.contains(&*pod.uid))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_whose_pod_is_gone_is_told_from_the_others() {
        let report = json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": "edge-office-1", "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        });
        let mut report: RelayNode = serde_json::from_value(report).unwrap();
        let pods = HashSet::from(["a"]);
        assert!(!has_lost_its_pod(&report, &pods), "no pod owns it");
        for (uid, lost) in [("a", false), ("b", true)] {
            let owner =
                json!({"apiVersion": "v1", "kind": "Pod", "name": "edge-office-1", "uid": uid});
            report.metadata.owner_references = serde_json::from_value(json!([owner])).unwrap();
            assert_eq!(has_lost_its_pod(&report, &pods), lost);
        }
    }
}
