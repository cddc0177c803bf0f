//! Ports of nodes that relays of several PeerRelays need. Pure.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::names;

/// A port of a node that pods can take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Protocol: `UDP` or `TCP`.
    pub protocol: String,
    /// Number of the port.
    pub number: u16,
}

impl HostPort {
    /// Returns a UDP port.
    pub fn udp(number: u16) -> Self {
        let protocol = "UDP".to_owned();
        Self { protocol, number }
    }

    /// Returns a TCP port.
    pub fn tcp(number: u16) -> Self {
        let protocol = "TCP".to_owned();
        Self { protocol, number }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol, self.number)
    }
}

/// The pod that has a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Namespace and name of the PeerRelay.
    pub relay: String,
    /// Name of the pod that has the port.
    pub pod: String,
}

/// Host ports of the relays' pods, by node.
#[derive(Debug, Default)]
pub struct Taken {
    nodes: BTreeMap<String, BTreeMap<HostPort, Holder>>,
}

impl Taken {
    /// Collects the ports of `pods` that are on nodes.
    pub fn new(pods: &[Arc<Pod>]) -> Self {
        let mut taken = Self::default();
        for pod in pods {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            // A pod that has ended keeps its node, but none of its ports.
            let ended = matches!(phase, Some("Succeeded" | "Failed"));
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let Some(node) = node.filter(|_| !ended) else {
                continue;
            };
            let holder = Holder {
                relay: relay_of(pod).unwrap_or_default(),
                pod: pod.name_any(),
            };
            let ports = taken.nodes.entry(node).or_default();
            for port in wanted(pod) {
                // Stores have no order.
                let first = ports.entry(port).or_insert_with(|| holder.clone());
                if holder < *first {
                    *first = holder.clone();
                }
            }
        }
        taken
    }

    /// Returns whether `relay` itself has one of `ports` on `node`, for example while a relay of
    /// one region replaces that of another.
    pub fn is_own(&self, node: &str, ports: &[HostPort], relay: &str) -> bool {
        let taken = self.nodes.get(node);
        let holders = ports.iter().filter_map(|port| taken?.get(port));
        holders.into_iter().any(|holder| holder.relay == relay)
    }

    /// The first of `ports` that another PeerRelay than `relay` has on `node`.
    pub fn conflict(
        &self,
        node: &str,
        ports: &[HostPort],
        relay: &str,
    ) -> Option<(HostPort, Holder)> {
        let taken = self.nodes.get(node)?;
        let mut found = ports
            .iter()
            .filter_map(|port| Some((port, taken.get(port)?)));
        let (port, holder) = found.find(|(_, holder)| holder.relay != relay)?;
        Some((port.clone(), holder.clone()))
    }
}

/// Returns whether a pod is on no node yet.
pub fn is_unscheduled(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.is_none_or(|spec| spec.node_name.is_none())
}

/// Namespace and name of the PeerRelay of a pod.
pub fn relay_of(pod: &Pod) -> Option<String> {
    let name = pod.labels().get(names::PEER_RELAY_LABEL)?;
    Some(format!("{}/{name}", pod.namespace().unwrap_or_default()))
}

/// Returns the host ports of a pod.
pub fn wanted(pod: &Pod) -> Vec<HostPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        Some(HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            // The API server sets `hostPort` for all ports of a pod on the host network.
            number: port.host_port?.try_into().ok()?,
        })
    };
    ports.filter_map(port).collect()
}

/// Returns the node of a pod: the one that runs it, or the one for which its DaemonSet created it.
pub fn node_of(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = &spec.node_name {
        return Some(node.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let mut fields = required
        .node_selector_terms
        .iter()
        // The DaemonSet controller names the node of a pod by this field
        // (`ReplaceDaemonSetPodNodeNameNodeAffinity`).
        .flat_map(|term| term.match_fields.iter().flatten());
    let by_name = fields.find(|field| field.key == "metadata.name")?;
    by_name.values.as_ref()?.first().cloned()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    /// A pod of PeerRelay `relay` in namespace `relays`, scheduled or not, with a UDP port.
    pub(crate) fn pod(relay: &str, node: &str, scheduled: bool, port: u16) -> Pod {
        let term =
            json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
        let affinity = json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
        }});
        let ports = json!([{"containerPort": port, "hostPort": port, "protocol": "UDP"}]);
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("{relay}-office-{node}"), "namespace": "relays",
                "labels": {
                    names::PEER_RELAY_LABEL: relay, names::REGION_LABEL: "office",
                    names::RELAY_LABEL: names::on_node(&format!("{relay}-office"), node),
                },
            },
            "spec": {
                "nodeName": scheduled.then_some(node), "affinity": affinity,
                "containers": [{"name": "relay", "ports": ports}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_port_has_one_holder_and_is_no_conflict_with_itself() {
        let taken = Taken::new(&[Arc::new(pod("edge", "n1", true, 40_000))]);
        let wants = [HostPort::udp(40_000), HostPort::tcp(9_440)];
        let (port, holder) = taken.conflict("n1", &wants, "relays/other").unwrap();
        assert_eq!(
            (port.to_string(), &*holder.relay),
            ("UDP port 40000".into(), "relays/edge")
        );
        assert!(taken.conflict("n1", &wants, "relays/edge").is_none());
        assert!(taken.conflict("n2", &wants, "relays/other").is_none());
        assert!(
            taken
                .conflict("n1", &[HostPort::tcp(40_000)], "relays/other")
                .is_none()
        );
    }

    #[test]
    fn a_pod_that_waits_has_no_port_but_a_node() {
        let waiting = pod("edge", "n1", false, 40_000);
        assert_eq!(node_of(&waiting).as_deref(), Some("n1"));
        let taken = Taken::new(&[Arc::new(waiting)]);
        assert!(
            taken
                .conflict("n1", &[HostPort::udp(40_000)], "relays/other")
                .is_none()
        );
    }
}
