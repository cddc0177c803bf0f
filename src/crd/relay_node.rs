//! `RelayNode`: the state of one relay.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    grants::GrantReport,
    probe::{EndpointVerification, ProbeReport},
};

/// Identity of one relay: its PeerRelay, region and node.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "peerrelay.dev",
    version = "v1alpha1",
    kind = "RelayNode",
    namespaced,
    category = "peer-relay",
    status = "RelayNodeStatus",
    derive = "PartialEq",
    doc = "What one relay really is. Written by the relay, named as its pod and removed with it.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.nodeName"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Ready", type_ = "boolean", json_path = ".status.ready"),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.tailnet.name"),
    printcolumn(
        name = "Sessions",
        type_ = "integer",
        json_path = ".status.sessions.open"
    ),
    printcolumn(name = "Path", type_ = "string", json_path = ".status.dataPath"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        priority = "1"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a RelayNode belongs to one pod for good"))]
pub struct RelayNodeSpec {
    /// Name of the PeerRelay, which is in the same namespace.
    #[schemars(length(max = 253))]
    pub peer_relay: String,
    /// Name of the region in the PeerRelay.
    #[schemars(length(max = 63))]
    pub region: String,
    /// Name of the node on which the relay runs.
    #[schemars(length(max = 253))]
    pub node_name: String,
}

/// Status of the relay, as reported by the relay.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayNodeStatus {
    /// True if the relay is registered, has a network map, is connected to DERP, has bound its port
    /// and advertises an address.
    pub ready: bool,
    /// Reason in CamelCase for which the relay is not ready. `docs/conditions.md` lists the
    /// remedies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Description of the reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version of the relay program.
    pub version: String,
    /// UDP port, if it is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Data path that forwards packets of open sessions: `Kernel` or `Socket`.
    pub data_path: String,
    /// Reason in CamelCase for which the data path is not the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path_reason: Option<String>,
    /// Description of the data path reason in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path_message: Option<String>,
    /// Public key to which the operator seals the auth key that the relay requests, in hex. It is
    /// absent if the relay needs no auth key from the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key_request: Option<String>,
    /// Tailnet device of the relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailnet: Option<NodeTailnet>,
    /// Addresses that the relay advertises to clients, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Public key of the relay's probes, in hex. Each start of the relay generates a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_key: Option<String>,
    /// Results of this relay's probes of other relays' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// Results of other relays' probes of this relay's addresses, written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verification: Vec<EndpointVerification>,
    /// Number of sessions, by state.
    #[serde(default)]
    pub sessions: Sessions,
    /// Withdrawal of the relay. A withdrawn relay accepts no new sessions, because it will be
    /// removed or because its node is cordoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawal: Option<Withdrawal>,
    /// Number of tailnet devices that the policy allows to use this relay.
    #[serde(default)]
    pub granted_peers: i64,
    /// Report on these devices. It is absent until the relay has a network map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantReport>,
    /// Time of the last update of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
}

/// Withdrawal of a relay.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// Time at which the operator requested the withdrawal.
    pub since: Time,
    /// True if no client uses a session of this relay any more.
    pub complete: bool,
}

/// Tailnet device of a relay.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTailnet {
    /// Name of the device.
    pub name: String,
    /// Name that the relay requested, if another device of the tailnet has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_name: Option<String>,
    /// Stable ID of the node.
    #[serde(rename = "nodeID")]
    pub node_id: String,
    /// Tailnet addresses of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Tags of the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Time at which the node key of the device expires. It is absent if the key does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_expiry: Option<Time>,
    /// Home DERP region. It is absent while the relay is not connected.
    #[serde(default, rename = "homeDERP", skip_serializing_if = "Option::is_none")]
    pub home_derp: Option<String>,
}

/// Address that a relay advertises.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Address and port, as `IP:PORT`.
    pub address: String,
    /// Source of the address.
    pub source: EndpointSource,
    /// True while clients are not told the address, because other relays do not reach it and reach
    /// another one like it. It is probed again every 30 seconds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

/// Source of an advertised address.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum EndpointSource {
    /// The address is set in the configuration.
    Static,
    /// The address belongs to a Service or a load balancer.
    Service,
    /// The address is an `ExternalIP` of the node.
    #[serde(rename = "NodeExternalIP")]
    NodeExternalIp,
    /// The address is an `InternalIP` of the node.
    #[serde(rename = "NodeInternalIP")]
    NodeInternalIp,
    /// The metadata service of the cloud returned the address.
    CloudMetadata,
    /// A STUN server of the DERP map observed the address.
    Stun,
    /// The address is assigned to a network interface.
    Interface,
}

/// Number of sessions, by state.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// Number of sessions that are allocated and not yet bound by both clients.
    pub connecting: i64,
    /// Number of sessions that both clients have bound.
    pub open: i64,
}
