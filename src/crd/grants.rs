//! The policy of a `PeerRelay`, and what its relays read of it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The part of the tailnet policy that lets clients use the relays.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// Where the policy is written: into the ConfigMap `<name>-grants`, or nowhere.
    #[serde(default)]
    pub output: GrantsOutput,
    /// Whether the policy has tests that relays cannot reach their clients. A control server
    /// refuses a policy whose tests fail, so `Deny` needs a tailnet whose other rules give relays
    /// no access to clients; an allow-all rule does.
    #[serde(default)]
    pub tests: GrantsTests,
}

/// Tests in the generated policy.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantsTests {
    /// No tests: the policy fits into every tailnet.
    #[default]
    Disabled,
    /// Each relay tag must not reach ports 22 and 443 of the region's clients.
    Deny,
}

/// Where the policy is written.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantsOutput {
    /// A ConfigMap with `grants.hujson`, `grants.json` and their checksum.
    #[default]
    ConfigMap,
    /// Nowhere; `peerrelay grants` prints it all the same.
    None,
}

/// The policy that was written.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantsStatus {
    /// ConfigMap with it.
    pub config_map: String,
    /// Changes with the policy, and with nothing else.
    pub checksum: String,
}

/// Whether the policy lets a region's clients use its relays.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantState {
    /// No relay of the region has reported its packet filter.
    #[default]
    Unknown,
    /// It does, and lets nobody else.
    Effective,
    /// A relay reads no grant in its packet filter.
    Missing,
    /// It lets others too.
    TooBroad,
}

/// Who may use a relay, as its own packet filter says. No names, no addresses.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantReport {
    /// Rules of the packet filter that grant the relay capability on this relay.
    pub rules: i64,
    /// Devices in the relay's network map.
    pub known_peers: i64,
    /// Whether a rule names every address of the tailnet as source.
    pub everyone: bool,
    /// Devices that may use the relay, by the tags they have; at most 16 sets of tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<GrantSource>,
    /// There are more sets of tags than these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_sources: bool,
}

/// Devices with the same tags.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantSource {
    /// Their tags, in order; none for devices of users. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// How many.
    pub peers: i64,
}
