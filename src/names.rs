//! Names and labels that the operator and the relay agree on.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Field manager of the objects that the operator makes, and value of their `managed-by` label.
pub const OPERATOR: &str = "peerrelay-operator";
/// Field manager of `PeerRelay` status.
pub const STATUS_MANAGER: &str = "peerrelay-status";
/// Field manager of `RelayNode`.
pub const RELAY_MANAGER: &str = "peerrelay-relay";
/// Label that names the PeerRelay.
pub const PEER_RELAY_LABEL: &str = "peerrelay.dev/peer-relay";
/// Label that names the region.
pub const REGION_LABEL: &str = "peerrelay.dev/region";
/// Annotation with a checksum of what the operator applied.
pub const APPLIED_ANNOTATION: &str = "peerrelay.dev/applied";
/// Annotation on pods with a checksum of their configuration: a change rolls them out.
pub const CONFIG_ANNOTATION: &str = "peerrelay.dev/config";
/// Annotation on nodes: endpoints of the relay there, separated by commas.
pub const STATIC_ENDPOINTS_ANNOTATION: &str = "peerrelay.dev/static-endpoints";
/// Label of a relay that has a DaemonSet of its own; the value is the DaemonSet's name.
pub const RELAY_LABEL: &str = "peerrelay.dev/relay";
/// Annotation of such a DaemonSet: the node that it is for.
pub const NODE_ANNOTATION: &str = "peerrelay.dev/node";
/// Label that no node has: DaemonSets of a PeerRelay that is not enabled select it.
pub const OFF_LABEL: &str = "peerrelay.dev/off";
/// Annotation of a Service: the Elastic IP of its load balancer, for the AWS Load Balancer Controller.
pub const ELASTIC_IP_ANNOTATION: &str =
    "service.beta.kubernetes.io/aws-load-balancer-eip-allocations";
/// Key of the auth key in its Secret.
pub const AUTH_KEY: &str = "authkey";
/// User and group of the relay process.
pub const RELAY_USER: u32 = 65_532;

/// Longest value of a label, and longest name of a Service.
const LONGEST_LABEL: usize = 63;
const NAME_LABEL: &str = "app.kubernetes.io/name";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Name of everything that belongs to one region; at most 61 characters, as the custom resource
/// allows 40 and 20.
pub fn child(peer_relay: &str, region: &str) -> String {
    format!("{peer_relay}-{region}")
}

/// Name of the ConfigMap with the policy of a PeerRelay. No region may be called so.
pub fn grants(peer_relay: &str) -> String {
    format!("{peer_relay}-grants")
}

/// Name of everything that belongs to the relay on one node: at most 63 characters, which begin
/// with the region's name and the node's as far as they fit, and differ where those do.
pub fn on_node(child: &str, node: &str) -> String {
    let whole = format!("{child}-{node}");
    let readable: String = whole
        .chars()
        .map(|c| if c == '.' { '-' } else { c })
        .take(LONGEST_LABEL - 9)
        .collect();
    // The slash keeps "a-b" on "c" apart from "a" on "b-c".
    let digest = Sha256::digest(format!("{child}/{node}"));
    let digest: String = digest[..4].iter().map(|b| format!("{b:02x}")).collect();
    format!("{readable}-{digest}")
}

/// Name of the Service of the metrics of a PeerRelay, its ServiceMonitor and its PrometheusRule. No
/// region may be called so.
pub fn metrics(peer_relay: &str) -> String {
    format!("{peer_relay}-metrics")
}

/// Name of the ConfigMap with the dashboard. No region may be called so.
pub fn dashboard(peer_relay: &str) -> String {
    format!("{peer_relay}-dashboard")
}

/// Labels by which a region's pods are selected; they never change.
pub fn selector(peer_relay: &str, region: &str) -> BTreeMap<String, String> {
    labels([(PEER_RELAY_LABEL, peer_relay), (REGION_LABEL, region)])
}

/// Labels of everything that belongs to one region.
pub fn region_labels(peer_relay: &str, region: &str) -> BTreeMap<String, String> {
    let mut labels = component_labels(peer_relay, "relay");
    labels.extend(selector(peer_relay, region));
    labels
}

/// Labels of what belongs to a PeerRelay as a whole.
pub fn component_labels(peer_relay: &str, component: &str) -> BTreeMap<String, String> {
    labels([
        (NAME_LABEL, "peerrelay"),
        (COMPONENT_LABEL, component),
        (MANAGED_BY_LABEL, OPERATOR),
        (PEER_RELAY_LABEL, peer_relay),
    ])
}

/// Selects everything that the operator has made.
pub fn managed() -> String {
    format!("{MANAGED_BY_LABEL}={OPERATOR}")
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
