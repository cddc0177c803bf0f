//! What relays saw of each other's addresses.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one relay saw of another's address; written by the relay that tried.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// RelayNode of the other relay.
    pub relay: String,
    /// `IP:PORT`.
    pub address: String,
    /// Whether a bind handshake went through.
    pub reachable: bool,
    /// Time from a bind to its challenge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_microseconds: Option<i64>,
    /// When it was tried last; renewed with each report.
    pub last_probe_time: Time,
}

/// What the other relays found of an address of this relay; written by the operator, whenever the
/// verdict changes.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointVerification {
    /// `IP:PORT`, one of `endpoints`.
    pub address: String,
    /// Whether another relay reached it; `Unknown` while none has tried or could try.
    pub verified: Verified,
    /// RelayNode of the relay that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Time from a bind to its challenge, when the verdict was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_microseconds: Option<i64>,
    /// When it was tried, when the verdict was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Time>,
    /// What is missing, for one that was not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether an address was proven.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
pub enum Verified {
    /// A relay has bound through it.
    True,
    /// A relay has tried, and none got through.
    False,
    /// Nobody has tried.
    Unknown,
}
