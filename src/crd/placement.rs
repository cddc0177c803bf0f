//! Placement: the nodes on which the relays of a region run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of relays of a region if the operator chooses their nodes.
// Each of these relays has a DaemonSet of its own.
pub const MOST_CHOSEN: u16 = 100;

/// Nodes for relays, and the number of relays. Relays start on nodes that match all fields. Nodes
/// without Linux, nodes with an architecture that the image does not support, and virtual nodes
/// never match.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity, with the fields of a pod's affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Zones in which a node must be (label `topology.kubernetes.io/zone`). If empty, nodes of all
    /// zones match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,
    /// Taints of nodes that relays tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Maximum number of relays of this region. The operator spreads them over zones. If empty, a
    /// relay runs on each node that matches. A relay stays on its node while the node matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_relays: Option<u16>,
}

/// Affinity of relays. Only node affinity is supported, because each node runs at most one relay of
/// a region.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Node affinity, with the fields of a pod's node affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// Node affinity of relays. Only required terms are supported.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// Required terms. A node matches if it matches one of the terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl Placement {
    /// Returns the required terms of the node affinity.
    pub fn required(&self) -> Option<&NodeSelector> {
        let affinity = self.affinity.as_ref()?.node_affinity.as_ref()?;
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    }
}
