//! Probes: relays verify each other's addresses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Result of probes of another relay's address, written by the relay that sent them.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// Name of the other relay's RelayNode.
    pub relay: String,
    /// Address and port that was probed, as `IP:PORT`.
    pub address: String,
    /// True if a bind handshake succeeded.
    pub reachable: bool,
    /// Time from a bind message to its challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_microseconds: Option<i64>,
    /// Time of the last probe. It is updated with each report.
    pub last_probe_time: Time,
}

/// Verification of one address of this relay by other relays. The operator writes it when the
/// result changes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointVerification {
    /// Address and port, as in `endpoints`.
    pub address: String,
    /// Result of the verification. It is `Unknown` while no other relay has probed the address.
    pub verified: Verified,
    /// Name of the RelayNode that has reported the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Time from a bind message to its challenge, at the time of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_microseconds: Option<i64>,
    /// Time of the probe, at the time of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Time>,
    /// Remedy, if the address was not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Result of the verification of an address.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Verified {
    /// Another relay has bound a session through the address.
    True,
    /// Other relays have probed the address without success.
    False,
    /// No relay has probed the address.
    Unknown,
}
