//! How clients reach the relays of a region.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How clients reach the relays of a region.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'NodePort' || !has(self.nodePort)").message("exposure.nodePort is for type NodePort: set exposure.type to NodePort, or remove nodePort"))]
#[x_kube(validation = Rule::new("self.type != 'HostNetwork' || !has(self.hostNetwork) || self.hostNetwork").message("exposure.hostNetwork cannot be false for type HostNetwork: choose type NodePort for relays on the pod network, or remove hostNetwork"))]
pub struct Exposure {
    /// `HostNetwork`: relays open the port on their nodes. `NodePort`: a Service leads from a port
    /// of each node to the relay on that node.
    #[serde(default, rename = "type")]
    #[schemars(default)]
    pub kind: ExposureType,
    /// Port of the nodes, for type NodePort; the cluster chooses one when empty. It must be in the
    /// cluster's range, mostly 30000-32767.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// Whether relays use the network of their nodes; true for type HostNetwork, false for others.
    /// Relays that do not pass Pod Security `restricted`, keep nothing on their nodes, and are new
    /// ephemeral devices with each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_network: Option<bool>,
}

/// What leads to the relays.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema,
)]
pub enum ExposureType {
    /// The node's own network.
    #[default]
    HostNetwork,
    /// A port of each node.
    NodePort,
}

impl ExposureType {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::NodePort => "NodePort",
        }
    }
}

impl Exposure {
    /// Whether relays use the network of their nodes.
    pub fn on_host_network(&self) -> bool {
        self.host_network
            .unwrap_or(self.kind == ExposureType::HostNetwork)
    }
}
