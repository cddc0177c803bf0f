//! On which nodes the relays of a region run.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Toleration};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Most relays of a region whose nodes are chosen.
pub const MOST_CHOSEN: u16 = 100;

/// Nodes that fit, and how many of them get a relay. Nodes that do not run Linux, or are of another
/// architecture than the relays' image, and virtual nodes never fit.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// What a node must be, in the words of a pod's affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Zones (label `topology.kubernetes.io/zone`) in which a node must be; any when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,
    /// Taints of nodes that relays tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Relays of this region at most, spread over zones; one on each node that fits when empty.
    /// Relays that run stay where they are for as long as their node fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_relays: Option<u16>,
}

/// Affinity towards nodes; that towards pods has no meaning for one relay per node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Affinity towards nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// What a node must be.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// A node fits if one of the terms does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl Placement {
    /// What a node must be, if anything.
    pub fn required(&self) -> Option<&NodeSelector> {
        let affinity = self.affinity.as_ref()?.node_affinity.as_ref()?;
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    }
}
