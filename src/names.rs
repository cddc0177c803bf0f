//! Names and labels that the operator and the relay share.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

/// Field manager of the operator's objects, and value of their `managed-by` label.
pub const OPERATOR: &str = "peerrelay-operator";
/// Field manager of the `PeerRelay` status.
pub const STATUS_MANAGER: &str = "peerrelay-status";
/// Field manager of `RelayNode` objects.
pub const RELAY_MANAGER: &str = "peerrelay-relay";
/// Label with the name of the PeerRelay.
pub const PEER_RELAY_LABEL: &str = "peerrelay.dev/peer-relay";
/// Label with the name of the region.
pub const REGION_LABEL: &str = "peerrelay.dev/region";
/// Annotation with a checksum of the object that the operator applied.
pub const APPLIED_ANNOTATION: &str = "peerrelay.dev/applied";
/// Annotation of pods with a checksum of their configuration. A change replaces the pods.
pub const CONFIG_ANNOTATION: &str = "peerrelay.dev/config";
/// Annotation of nodes with the static endpoints of their relay, separated by commas.
pub const STATIC_ENDPOINTS_ANNOTATION: &str = "peerrelay.dev/static-endpoints";
/// Label of relays that have a DaemonSet of their own. The value is the name of the DaemonSet.
pub const RELAY_LABEL: &str = "peerrelay.dev/relay";
/// Annotation of a DaemonSet for one node, with the name of the node.
pub const NODE_ANNOTATION: &str = "peerrelay.dev/node";
/// Label that no node has. DaemonSets of a disabled PeerRelay select it.
pub const OFF_LABEL: &str = "peerrelay.dev/off";
/// Label of nodes that an administrator drains of relays, as [`DRAIN_WITHDRAW`] or [`DRAIN_REMOVE`].
pub const DRAIN_LABEL: &str = "peerrelay.dev/drain";
/// Drain in which the relays of a node accept no new sessions while another relay can be used.
pub const DRAIN_WITHDRAW: &str = "withdraw";
/// Drain in which a node has no relays.
pub const DRAIN_REMOVE: &str = "remove";
/// Annotation of Services with the load balancer class that the PeerRelay requests.
pub const CLASS_ANNOTATION: &str = "peerrelay.dev/load-balancer-class";
/// Annotation of Services with the Elastic IP of their load balancer, for the AWS Load Balancer
/// Controller.
pub const ELASTIC_IP_ANNOTATION: &str =
    "service.beta.kubernetes.io/aws-load-balancer-eip-allocations";
/// Finalizer of PeerRelays whose tailnet devices are deleted before them.
pub const FINALIZER: &str = "peerrelay.dev/devices";
/// Field manager of this finalizer.
// An apply without finalizers by this manager removes its own finalizer, and none of others.
pub const FINALIZER_MANAGER: &str = "peerrelay-finalizer";
/// Condition of a PeerRelay whose credentials expire soon. It is a problem if it is `True`.
pub const CREDENTIAL_EXPIRING: &str = "CredentialExpiring";
/// HTTP header of a probe with the identity of the relay that it is for. Other relays refuse the
/// probe.
pub const IDENTITY_HEADER: &str = "peerrelay-identity";
/// Key of the auth key in its Secret.
pub const AUTH_KEY: &str = "authkey";
/// Key of the API key of Headscale in its Secret.
pub const API_KEY: &str = "apikey";
/// User ID and group ID of the relay process.
pub const RELAY_USER: u32 = 65_532;
/// Exit code of a container of a relay that may not write to a directory of the node (`EX_CANTCREAT` of
/// `sysexits(3)`).
pub const STATE_DIRECTORY_UNUSABLE: u8 = 73;
/// Label of a node with its zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Label of a node with its host name, which selects one node.
pub const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// Maximum length of a DNS label (RFC 1035), of a label value, and of a Service name.
pub const LONGEST_LABEL: usize = 63;
/// Maximum length of an object name, in characters.
pub const LONGEST_NAME: usize = 253;
/// Maximum length of a PeerRelay name.
pub const LONGEST_PEER_RELAY: usize = 40;
/// Maximum length of a region name.
pub const LONGEST_REGION: usize = 20;
/// Names that regions must not have, because other objects of the PeerRelay have them.
pub const RESERVED_REGIONS: [&str; 3] = ["grants", "metrics", "dashboard"];
/// Number of hexadecimal digits at the end of a shortened name.
const DIGEST: usize = 8;
const NAME_LABEL: &str = "app.kubernetes.io/name";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Returns whether `text` can be the name of a Service in every Kubernetes version (RFC 1035). Such
/// a name has lower-case letters, digits and dashes, begins with a letter and does not end with a
/// dash.
pub fn is_service_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(allowed)
}

/// Returns whether a PeerRelay may have this name. Names of Services begin with it.
pub fn is_peer_relay_name(text: &str) -> bool {
    text.len() <= LONGEST_PEER_RELAY && is_service_name(text)
}

/// Returns a valid PeerRelay name that is similar to `text`.
pub fn suggestion(text: &str) -> String {
    let name = device(text);
    let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let name: String = name.chars().take(LONGEST_PEER_RELAY).collect();
    match name.trim_end_matches('-') {
        "" => "edge".to_owned(),
        name => name.to_owned(),
    }
}

/// Returns whether a region may have this name. Names of Services contain it.
pub fn is_region_name(text: &str) -> bool {
    text.len() <= LONGEST_REGION && is_service_name(text) && !RESERVED_REGIONS.contains(&text)
}

/// Returns the name of a tailnet device, which is a DNS label. Characters other than letters and
/// digits become dashes. The end of a long name is replaced by a digest, because node names usually
/// differ at the end.
pub fn device(text: &str) -> String {
    let label = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let whole: String = text.chars().map(label).collect();
    let whole = whole.trim_matches('-');
    if whole.len() <= LONGEST_LABEL {
        return whole.to_owned();
    }
    let readable = whole[..LONGEST_LABEL - DIGEST - 1].trim_end_matches('-');
    format!("{readable}-{}", digest(text, DIGEST / 2))
}

/// Returns whether the control server changed a device's name because another device has it.
/// `wanted` is the name that was requested, and `device` the DNS name that was given.
///
/// Control servers add a dash and a number. Older versions of Headscale add a dash and 8 letters or
/// digits. Both cut the name if it would be longer than a DNS label.
pub fn is_taken(wanted: &str, device: &str) -> bool {
    /// Maximum length of the suffix that a control server adds, with its dash.
    const LONGEST_SUFFIX: usize = 9;
    let label = device.split('.').next().unwrap_or_default();
    let Some((base, suffix)) = label.rsplit_once('-') else {
        return false;
    };
    let number = !suffix.is_empty() && suffix.chars().all(|c| c.is_ascii_digit());
    let random = suffix.len() == 8
        && suffix
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let was_cut = wanted.len() + suffix.len() + 1 > LONGEST_LABEL
        && base.len() >= LONGEST_LABEL - 2 * LONGEST_SUFFIX
        && wanted.starts_with(base);
    label != wanted && (number || random) && (base == wanted || was_cut)
}

/// Returns whether `text` is a qualified name of Kubernetes: `NAME` or `DOMAIN/NAME`.
pub fn is_qualified(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_value(text),
        Some((domain, name)) => is_dns_name(domain) && is_label_value(name),
    }
}

/// Returns whether `key` and `value` are a label of Kubernetes. The value may be empty.
pub fn is_label(key: &str, value: &str) -> bool {
    is_qualified(key) && (value.is_empty() || is_label_value(value))
}

/// Returns whether `text` is a label value of Kubernetes that is not empty.
pub fn is_label_value(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.len() <= LONGEST_LABEL && text.chars().all(plain) && has_ends(text)
}

/// Returns whether `text` is a lower-case DNS label (RFC 1123), as names of namespaces are.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= LONGEST_LABEL && is_dns_part(text)
}

/// Returns whether `text` is a lower-case DNS name (RFC 1123), as names of most objects are.
pub fn is_dns_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME && text.split('.').all(is_dns_part)
}

/// Returns whether `text` is one part of a lower-case DNS name, of any length.
pub fn is_dns_part(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.chars().all(plain) && has_ends(text)
}

/// Returns whether `text` begins and ends with a letter or digit.
fn has_ends(text: &str) -> bool {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    is_end(text.chars().next()) && is_end(text.chars().next_back())
}

/// Returns the first `count` bytes of the SHA-256 digest of `bytes`, in hex.
pub fn digest(bytes: impl AsRef<[u8]>, count: usize) -> String {
    let digest = Sha256::digest(bytes);
    digest[..count].iter().map(|b| format!("{b:02x}")).collect()
}

/// Returns the name of the objects of one region. It has at most 61 characters, because the custom
/// resource allows 40 and 20.
pub fn child(peer_relay: &str, region: &str) -> String {
    format!("{peer_relay}-{region}")
}

/// Returns the identity of a relay in the header of probes.
pub fn identity(namespace: &str, peer_relay: &str, region: &str) -> String {
    format!("{namespace}/{peer_relay}/{region}")
}

/// Returns the name of the ConfigMap with the policy of a PeerRelay. No region may have this name.
pub fn grants(peer_relay: &str) -> String {
    format!("{peer_relay}-grants")
}

/// Returns the name of the objects of the relay on one node, at most 63 characters. It begins with
/// the names of the region and the node, cut to fit, and ends with a digest of both.
pub fn on_node(child: &str, node: &str) -> String {
    let whole = format!("{child}-{node}");
    let readable: String = whole
        .chars()
        .map(|c| if c == '.' { '-' } else { c })
        .take(LONGEST_LABEL - DIGEST - 1)
        .collect();
    // The slash distinguishes "a-b" on "c" from "a" on "b-c".
    format!(
        "{readable}-{}",
        digest(format!("{child}/{node}"), DIGEST / 2)
    )
}

/// Returns the name of a PeerRelay's metrics Service, ServiceMonitor and PrometheusRule. No region
/// may have this name.
pub fn metrics(peer_relay: &str) -> String {
    format!("{peer_relay}-metrics")
}

/// Returns the name of the ConfigMap with the dashboard. No region may have this name.
pub fn dashboard(peer_relay: &str) -> String {
    format!("{peer_relay}-dashboard")
}

/// Returns the labels that select a region's pods. They never change.
pub fn selector(peer_relay: &str, region: &str) -> BTreeMap<String, String> {
    labels([(PEER_RELAY_LABEL, peer_relay), (REGION_LABEL, region)])
}

/// Returns the labels of the objects of one region.
pub fn region_labels(peer_relay: &str, region: &str) -> BTreeMap<String, String> {
    let mut labels = component_labels(peer_relay, "relay");
    labels.extend(selector(peer_relay, region));
    labels
}

/// Returns the labels of the objects of a PeerRelay as a whole.
pub fn component_labels(peer_relay: &str, component: &str) -> BTreeMap<String, String> {
    labels([
        (NAME_LABEL, "peerrelay"),
        (COMPONENT_LABEL, component),
        (MANAGED_BY_LABEL, OPERATOR),
        (PEER_RELAY_LABEL, peer_relay),
    ])
}

/// Returns the selector of all objects that the operator has created.
pub fn managed() -> String {
    format!("{MANAGED_BY_LABEL}={OPERATOR}")
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_begin_those_of_services_are_told_from_others() {
        for good in ["a", "edge", "edge-eu", "e1", &"a".repeat(40)] {
            assert!(is_peer_relay_name(good), "{good}");
        }
        let long = "a".repeat(41);
        for bad in ["", "edge.eu", "1edge", "Edge", "edge-", "-e", "e_e", &long] {
            assert!(!is_peer_relay_name(bad), "{bad}");
            assert!(is_peer_relay_name(&suggestion(bad)), "{bad}");
        }
        assert_eq!(suggestion("edge.eu"), "edge-eu");
        for bad in ["metrics", "eu.west", &"a".repeat(21)] {
            assert!(!is_region_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_that_another_device_has_is_recognized() {
        let long = "a".repeat(63);
        for (wanted, device) in [
            ("edge-n1", "edge-n1-1.tail1.ts.net."),
            ("edge-n1", "edge-n1-12"),
            ("edge-n1", "edge-n1-k3x9q0ab.example.net"),
            (&long, &format!("{}-1.example.net", "a".repeat(61))),
        ] {
            assert!(is_taken(wanted, device), "{wanted} {device}");
        }
        for (wanted, device) in [
            ("edge-n1", "edge-n1.tail1.ts.net."),
            ("edge-n1", "berlin.tail1.ts.net"),
            ("edge-n1", "edge-n1-berlin.example.net"),
            ("edge-n1", "edge-1.example.net"),
            ("edge-n1", ""),
        ] {
            assert!(!is_taken(wanted, device), "{wanted} {device}");
        }
    }

    #[test]
    fn device_names_that_are_too_long_stay_different() {
        let prefix = "a-prefix-of-forty-characters-for-devices";
        let node = |last| format!("{prefix}-aks-nodepool1-12345678-vmss00000{last}");
        let (first, second) = (device(&node(0)), device(&node(1)));
        assert_ne!(first, second);
        for name in [&first, &second] {
            assert!(is_service_name(name) && name.len() <= 63, "{name}");
            assert!(name.starts_with(prefix), "{name}");
        }
        assert_eq!(device("edge-N1.example.net."), "edge-n1-example-net");
        let cut_at_a_dash = format!("{}-{}", "a".repeat(53), "b".repeat(20));
        assert!(!device(&cut_at_a_dash).contains("--"));
    }
}
