//! Tailnet devices of a PeerRelay's relays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum number of devices in the status of a PeerRelay.
pub const MOST_DEVICES: usize = 1_000;
/// Maximum length of a device's stable ID.
pub const LONGEST_NODE_ID: usize = 64;

/// Effect of the removal of relays on their tailnet devices.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum DeletionPolicy {
    /// Delete the devices.
    Delete,
    /// Keep the devices in the tailnet.
    Retain,
}

/// Tailnet device of a relay, which the operator deletes when the relay is removed.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayDevice {
    /// Stable ID of the device. The operator deletes it by this ID.
    #[serde(rename = "nodeID")]
    #[schemars(length(min = 1, max = 64))]
    pub node_id: String,
    /// Name of the device.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Region of the relay.
    #[schemars(length(max = 63))]
    pub region: String,
    /// Node of the relay.
    #[schemars(length(max = 253))]
    pub node: String,
    /// Tag of the relay. A device without this tag is not deleted.
    #[schemars(length(max = 64))]
    pub tag: String,
    /// Time at which the operator first observed that the relay is removed for good. It is absent
    /// for other relays, also while their node is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_since: Option<Time>,
}
