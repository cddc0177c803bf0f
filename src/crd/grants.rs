//! The policy of a `PeerRelay`, and what its relays read of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
    /// A client that a relay sees may not use it.
    Incomplete,
    /// A device that is no relay has the relays' tag.
    TagShared,
    /// No relay sees a device of one of the clients.
    Unseen,
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
    /// What the relay knows of each entry of the region's `clients`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub clients: Vec<ClientReport>,
    /// Devices that have the relay's tag and are no relays: clients try them, too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tagged_others: i64,
}

/// What a relay knows of an entry of `clients`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientReport {
    /// The entry as it was written.
    #[schemars(length(max = 256))]
    pub client: String,
    /// Devices; absent for groups, hosts, IP sets and roles, which a relay cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<ClientDevices>,
    /// When the relay began to count requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Time>,
    /// When one of the devices last asked for a session and got it; up to five minutes old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_asked: Option<Time>,
}

/// Devices of an entry of `clients`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientDevices {
    /// Devices in the relay's network map.
    pub known: i64,
    /// Those of them that may use the relay.
    pub granted: i64,
}

/// An entry of `clients` in the review of a region.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientStatus {
    /// The entry as it was written.
    #[schemars(length(max = 256))]
    pub client: String,
    /// Devices that may use the relays; absent where relays cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<i64>,
    /// When relays began to count requests, whichever counts the longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Time>,
    /// The hour in which one of the devices last asked for a session; absent if none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_asked: Option<Time>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
const fn is_zero(number: &i64) -> bool {
    *number == 0
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
