//! `RelayNode`: what one relay really is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    grants::GrantReport,
    probe::{EndpointVerification, ProbeReport},
};

/// What one relay really is. Written by the relay, named as its pod and removed with it.
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
    /// PeerRelay of the same namespace.
    #[schemars(length(max = 253))]
    pub peer_relay: String,
    /// Region of the PeerRelay.
    #[schemars(length(max = 63))]
    pub region: String,
    /// Node on which the relay runs.
    #[schemars(length(max = 253))]
    pub node_name: String,
}

/// The relay at a moment.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayNodeStatus {
    /// Registered, network map received, DERP connected, port bound, an address advertised.
    pub ready: bool,
    /// Why it is not, in CamelCase; `docs/conditions.md` has the remedies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version of the relay.
    pub version: String,
    /// UDP port, once bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What forwards packets of open sessions: `Kernel` or `Socket`.
    pub data_path: String,
    /// Why it is not the kernel, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path_reason: Option<String>,
    /// The same in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path_message: Option<String>,
    /// The relay as a tailnet device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailnet: Option<NodeTailnet>,
    /// Addresses that clients are told to try, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Public key with which this relay tries others and answers them, in hex; new with each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_key: Option<String>,
    /// What this relay saw of others' addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeReport>,
    /// What others found of this relay's addresses; written by the operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verification: Vec<EndpointVerification>,
    /// Sessions.
    #[serde(default)]
    pub sessions: Sessions,
    /// Withdrawal of the relay, while it gives out no sessions because it is going to be removed or
    /// its node is cordoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawal: Option<Withdrawal>,
    /// Tailnet devices that the policy lets use this relay.
    #[serde(default)]
    pub granted_peers: i64,
    /// Who they are, once the network map has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantReport>,
    /// When this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
}

/// Withdrawal of a relay.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Withdrawal {
    /// When the operator asked for it.
    pub since: Time,
    /// No client uses a session of this relay any more.
    pub complete: bool,
}

/// The relay as a tailnet device.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeTailnet {
    /// Device name.
    pub name: String,
    /// Device name that the relay asked for, if another device of the tailnet has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_name: Option<String>,
    /// Stable node id.
    #[serde(rename = "nodeID")]
    pub node_id: String,
    /// Tailnet addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Home DERP region, while connected.
    #[serde(default, rename = "homeDERP", skip_serializing_if = "Option::is_none")]
    pub home_derp: Option<String>,
}

/// An advertised address.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `IP:PORT`.
    pub address: String,
    /// Where it comes from.
    pub source: EndpointSource,
}

/// Where an advertised address comes from.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum EndpointSource {
    /// Given in the configuration.
    Static,
    /// Leads through a Service or a load balancer.
    Service,
    /// `ExternalIP` of the node.
    #[serde(rename = "NodeExternalIP")]
    NodeExternalIp,
    /// `InternalIP` of the node.
    #[serde(rename = "NodeInternalIP")]
    NodeInternalIp,
    /// The cloud's metadata service names it.
    CloudMetadata,
    /// STUN servers of the DERP map see it.
    Stun,
    /// An address of a network interface.
    Interface,
}

/// Sessions by state.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// Allocated, not bound by both clients.
    pub connecting: i64,
    /// Relaying.
    pub open: i64,
}
