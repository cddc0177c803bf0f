//! Tailnet policy of a `PeerRelay`, and the relays' reports about it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credential::{ApiKeyRef, OAuthRef, WorkloadIdentity};

/// The part of the tailnet policy that allows clients to use the relays.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sync) || self.sync == 'Off' || has(self.oauth) || has(self.workloadIdentity) || has(self.apiKey)").message("grants.sync needs a credential of its own, which may access the policy: set grants.oauth (a Secret with an OAuth client), grants.workloadIdentity (a federated identity) or grants.apiKey (a Secret with an API key of Headscale), or set grants.sync to Off"))]
#[x_kube(validation = Rule::new("[has(self.oauth), has(self.workloadIdentity), has(self.apiKey)].filter(given, given).size() <= 1").message("grants must have only one of oauth, workloadIdentity and apiKey: remove the others"))]
#[x_kube(validation = Rule::new("!has(self.sync) || self.sync != 'Propose' || !has(self.output) || self.output == 'ConfigMap'").message("grants.sync: Propose writes the difference into the ConfigMap of grants.output: set grants.output to ConfigMap"))]
pub struct Grants {
    /// Output of the policy: the ConfigMap `<name>-grants`, or none.
    #[serde(default)]
    pub output: GrantsOutput,
    /// Add tests to the policy which verify that relays cannot connect to their clients. A control
    /// server refuses a policy whose tests fail. With `Deny`, no other rule of the tailnet may
    /// allow relays to connect to clients; an allow-all rule does.
    #[serde(default)]
    pub tests: GrantsTests,
    /// Merge of the entries that the relays need into the policy file of the tailnet, by the API of
    /// tailscale.com, of a server with the same API (`tailnet.apiURL`), or of Headscale. If empty, it is
    /// `Off`, and the policy stays as it is, also after `Apply`. In YAML, write `"Off"` in quotes.
    #[serde(default, skip_serializing_if = "GrantsSync::is_off")]
    pub sync: GrantsSync,
    // Who may write the policy may do everything in the tailnet. The credential that creates auth keys
    // does not get this right.
    /// OAuth client for `sync`. It needs the scopes `policy_file` (with `Propose`,
    /// `policy_file:read` is sufficient), `devices:core:read` and
    /// `devices:posture_attributes:read`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthRef>,
    /// Federated identity for `sync`, with the same scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// API key of Headscale for `sync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyRef>,
    /// Owners of the relays' tags in the merged entries, such as the tag of the OAuth client in
    /// `tailnet.oauth`. If empty, owners in the policy are kept, and new tags belong to
    /// `autogroup:admin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 256), regex(pattern = "^[^\\s\"]+$"))
    )]
    pub tag_owners: Vec<String>,
    /// Name of the cluster in the comments above the merged entries. PeerRelays of several clusters
    /// with the same namespace and name need it if they share a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub cluster: Option<String>,
}

/// Merge of the generated policy into that of the tailnet.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantsSync {
    /// The operator does not access the policy of the tailnet.
    #[default]
    Off,
    /// The operator reads the policy, and writes the difference into the ConfigMap and the status.
    /// It does not change the policy.
    Propose,
    /// The operator adds, updates and removes the entries of this PeerRelay in the policy, and no
    /// others. The deletion of the PeerRelay removes its entries.
    Apply,
}

impl GrantsSync {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    fn is_off(&self) -> bool {
        *self == Self::Off
    }
}

/// State of `grants.sync`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Checksum of the entries and settings with which the policy was last compared. It is empty
    /// before the first comparison.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub checksum: String,
    /// True if the policy may contain entries of this PeerRelay, which its deletion removes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_entries: bool,
    /// Difference that `Propose` found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<PolicyProposal>,
    /// Findings about relay grants for this PeerRelay in the policy, as `peerrelay grants review`
    /// prints them. At most 16 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub findings: Vec<PolicyFinding>,
    /// Time at which the API key of `grants.apiKey` expires. It is absent if the API does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_expires: Option<Time>,
}

/// Finding about the policy of the tailnet.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFinding {
    /// Line in the policy file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
    /// Kind of the finding, such as `wildcard-destination`.
    pub kind: String,
    /// Description with the fix, at most 512 characters.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// Difference between the policy of the tailnet and the policy with the entries of a PeerRelay.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyProposal {
    /// Checksum of the difference.
    pub checksum: String,
    /// Beginning of the difference, at most 4096 characters. The entry `policy.diff` of the
    /// ConfigMap has all of it.
    #[schemars(length(max = 4096))]
    pub diff: String,
}

/// Tests in the generated policy.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantsTests {
    /// The policy has no tests and can be merged into every tailnet policy.
    #[default]
    Disabled,
    /// The policy has tests that each relay tag cannot reach ports 22 and 443 of the region's
    /// clients.
    Deny,
}

/// Output of the generated policy.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantsOutput {
    /// A ConfigMap with `grants.hujson`, `grants.json` and their checksum.
    #[default]
    ConfigMap,
    /// The policy is not written. `peerrelay grants` still prints it.
    None,
}

/// Reference to the generated policy.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantsStatus {
    /// Name of the ConfigMap with the policy.
    pub config_map: String,
    /// Checksum of the policy. It changes only if the policy changes.
    pub checksum: String,
}

/// State of the grant for a region's clients, as relays read it in their packet filters.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum GrantState {
    /// No relay of the region has reported its packet filter.
    #[default]
    Unknown,
    /// All clients may use the relays, and no other device may.
    Effective,
    /// A relay has no grant in its packet filter.
    Missing,
    /// Devices that are not clients of the region may use the relays.
    TooBroad,
    /// A relay sees a device of a client which may not use it.
    Incomplete,
    /// A device that is not a relay has the relays' tag.
    TagShared,
    /// No relay sees a device of one of the clients.
    Unseen,
}

/// Report of a relay on the devices that may use it, from its packet filter. It contains no names
/// and no addresses.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantReport {
    /// Number of packet filter rules that grant the relay capability on this relay.
    pub rules: i64,
    /// Number of devices in the relay's network map.
    pub known_peers: i64,
    /// True if a rule names every address of the tailnet as source.
    pub everyone: bool,
    /// Devices that may use the relay, grouped by their tags. At most 16 groups are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<GrantSource>,
    /// True if there are more groups than `sources` lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_sources: bool,
    /// Devices of each entry of the region's `clients`, as the relay sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub clients: Vec<ClientReport>,
    /// Number of devices that have the relay's tag and are not relays. Clients try to use them as
    /// relays too.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tagged_others: i64,
}

/// Report of a relay on one entry of `clients`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientReport {
    /// Entry of `clients`, as written in the spec.
    #[schemars(length(max = 256))]
    pub client: String,
    /// Number of devices. It is absent for groups, hosts, IP sets and roles, which a relay cannot
    /// resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<ClientDevices>,
    /// Time since which the relay counts requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Time>,
    /// Time at which a device of the entry was last given a session. It may be up to five minutes
    /// old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_asked: Option<Time>,
}

/// Number of devices of one entry of `clients`.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientDevices {
    /// Number of devices in the relay's network map.
    pub known: i64,
    /// Number of these devices that may use the relay.
    pub granted: i64,
}

/// Use of one entry of `clients` in a region.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientStatus {
    /// Entry of `clients`, as written in the spec.
    #[schemars(length(max = 256))]
    pub client: String,
    /// Number of devices that may use the relays. It is absent if relays cannot resolve the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<i64>,
    /// Time since which the relays count requests, the earliest of all relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_since: Option<Time>,
    /// Hour in which a device of the entry last asked for a session. It is absent if none has
    /// asked.
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

/// Devices that may use a relay and have the same tags.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantSource {
    /// Tags of the devices in alphabetical order, at most 16. It is empty for devices of users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Number of these devices.
    pub peers: i64,
}
