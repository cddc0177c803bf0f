//! `PeerRelay`: relays for a tailnet, by region.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    endpoints::Endpoints,
    exposure::Exposure,
    grants::{ClientStatus, GrantState, Grants, GrantsStatus},
    limits::Limits,
    monitoring::Monitoring,
    placement::Placement,
    template::Template,
};
use crate::config::{DEFAULT_PORT, data_path::DataPath, log_level::LogLevel};

/// Tailscale peer relays on the nodes of this cluster.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "peerrelay.dev",
    version = "v1alpha1",
    kind = "PeerRelay",
    namespaced,
    shortname = "prelay",
    category = "peer-relay",
    status = "PeerRelayStatus",
    derive = "PartialEq",
    doc = "Tailscale peer relays on the nodes of this cluster: clients that cannot reach each other directly talk through them.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters: it begins the names of the relays' DaemonSets"),
    validation = Rule::new("oldSelf.hasValue() || self.metadata.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").optional_old_self(true).message("metadata.name must be lower-case letters, digits and dashes, begin with a letter and end with a letter or digit, such as edge-eu: it begins the names of Services, which allow nothing else"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Relays", type_ = "string", json_path = ".status.relays"),
    printcolumn(name = "Port", type_ = "integer", json_path = ".spec.port"),
    printcolumn(name = "Regions", type_ = "string", json_path = ".status.regionNames"),
    printcolumn(name = "Exposure", type_ = "string", json_path = ".status.exposure"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Endpoints", type_ = "string", json_path = ".status.endpoints", priority = "1"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.monitoring.port) || self.port != self.monitoring.port").message("monitoring.port must differ from port: both are opened on the node"))]
pub struct PeerRelaySpec {
    /// UDP port that the relays open on their nodes. Clients must be able to reach it.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Leave everything as it is: nothing is created, changed or removed until this is false again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Whether relays run. While this is false, none does and everything else stays, such as grants,
    /// identities on nodes and node ports; once it is true again, the same devices come back. Relays
    /// that run get up to two minutes in which clients can find others.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The tailnet that the relays join.
    pub tailnet: Tailnet,
    /// Where relays run and for whom. Each region has its own DaemonSet and its own tag.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub regions: Vec<Region>,
    /// What forwards packets of open sessions. `Auto` is the kernel on nodes that can, for relays on
    /// the host network, and sockets elsewhere; each `RelayNode` says which, and why.
    #[serde(default)]
    pub data_path: DataPath,
    /// Relays of all regions together at most. When empty: 2 with the control server of
    /// tailscale.com, which is its documented allowance, and no limit with others. Relays that run
    /// are not stopped by it. The condition `WithinQuota` also counts the relays of other PeerRelays
    /// of the cluster with the same control server and credential, and judges them by the greatest
    /// `maxRelays` among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_relays: Option<u16>,
    /// How much of a relay its clients can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How much the relays log; a change takes effect without a restart.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Metrics of the relays.
    #[serde(default)]
    #[schemars(default = "Monitoring::default")]
    pub monitoring: Monitoring,
    /// The part of the tailnet policy that lets the clients use the relays.
    #[serde(default)]
    #[schemars(default = "Grants::default")]
    pub grants: Grants,
    /// How the relays' pods are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// The tailnet that relays join.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.controlURL) || self.controlURL.matches('^https?://[^/?#]+/?$')").message("tailnet.controlURL must be a URL without a path, such as https://control.example.net"))]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.caBundle.contains('-----BEGIN CERTIFICATE-----')").message("tailnet.caBundle must be PEM: one or more blocks that begin with -----BEGIN CERTIFICATE-----"))]
pub struct Tailnet {
    /// Auth key with which relays register. It should be reusable, pre-approved, and own the
    /// regions' tags.
    pub auth_key: AuthKeyRef,
    /// Control server; the one of tailscale.com when empty.
    #[serde(
        default,
        rename = "controlURL",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 512))]
    pub control_url: Option<String>,
    /// Certificate authorities, PEM, to trust besides the public ones: for control and DERP
    /// servers behind a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub ca_bundle: Option<String>,
    /// Device names are this, a dash and the node's name; the PeerRelay's name when empty. Those of
    /// relays on the pod network have the region's name between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub hostname_prefix: Option<String>,
    /// Register ephemeral devices, which control removes when they go offline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
}

/// Names a Secret of the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthKeyRef {
    /// Secret with the auth key under the key `authkey`. It may be created later, and replaced.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub secret_name: String,
}

/// One group of relays, for one group of clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tag) || self.tag != '*'").message("tag must not be '*': every device of the tailnet would become a relay that clients try; name a tag that only relays have"))]
#[x_kube(validation = Rule::new("self.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message("name must be lower-case letters, digits and dashes, begin with a letter and end with a letter or digit, such as eu-west: it is a part of the names of Services, which allow nothing else"))]
#[x_kube(validation = Rule::new("!(self.name in ['grants', 'metrics', 'dashboard'])").message("name must not be grants, metrics or dashboard: objects of the PeerRelay as a whole have these names"))]
pub struct Region {
    /// Name, unique within the PeerRelay.
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Tag of the relays' devices; `tag:relay-<name>` when empty. Give it to nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^tag:[a-zA-Z][a-zA-Z0-9-]*$"))]
    pub tag: Option<String>,
    /// Who may use these relays, in the words of a tailnet policy: `tag:office`, `group:eng`,
    /// `autogroup:member`, `alice@example.com`, a host alias, an address or network of the tailnet.
    /// `*` is everyone, and most likely too many.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 256), regex(pattern = "^[^\\s\"]+$"))
    )]
    pub clients: Vec<String>,
    /// Grant the relays' tag its own relays too: for devices that have the tag, are no relay of
    /// this kind, and relay for themselves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_relay: bool,
    /// On which nodes relays run: one on each that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How clients reach these relays; on the network of their nodes when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// Addresses that clients are told to send to; those of the node's interfaces when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
}

impl Region {
    /// Tag of the relays' devices.
    pub fn tag(&self) -> String {
        self.tag
            .clone()
            .unwrap_or_else(|| format!("tag:relay-{}", self.name))
    }
}

/// What the operator has seen and done.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerRelayStatus {
    /// Generation of the spec that this status is about; -1 before the first look.
    #[serde(default)]
    pub observed_generation: i64,
    /// Ready, Reconciling, Stalled, TailnetConnected, RelaysAvailable, GrantsInForce,
    /// EndpointsPublished, EndpointsVerified; `docs/conditions.md` has
    /// the reasons and their remedies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Ready relays and wanted relays, such as `2/2`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relays: String,
    /// Names of the regions, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region_names: String,
    /// How the regions are exposed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exposure: String,
    /// First endpoint of each relay, for people; at most 10.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoints: String,
    /// Open sessions of all relays, as last reported.
    #[serde(default)]
    pub sessions: i64,
    /// Domain of the tailnet that the relays have joined, as they report it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tailnet: String,
    /// Summary of each region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionStatus>,
    /// The policy that the tailnet needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<GrantsStatus>,
}

/// Summary of a region.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// Name of the region.
    pub name: String,
    /// Tag of its relays.
    pub tag: String,
    /// How clients reach its relays.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exposure: String,
    /// Nodes that fit.
    #[serde(default)]
    pub nodes: i32,
    /// Relays that would run too, if `maxRelays` allowed it.
    #[serde(default)]
    pub excess: i32,
    /// Relays that should run.
    pub desired: i32,
    /// Relays that are ready.
    pub ready: i32,
    /// Tailnet devices that the policy lets use each relay, as the relays see it.
    pub granted_peers: i64,
    /// Whether the policy lets the clients use them.
    #[serde(default)]
    pub grant: GrantState,
    /// Who of the clients asks for sessions, to find rules that nobody uses any more; the first
    /// ones, at most 256 over all regions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub clients: Vec<ClientStatus>,
    /// What firewalls in front of the nodes must let in; `peerrelay firewall` has the commands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub firewall: String,
}

fn default_port() -> u16 {
    DEFAULT_PORT
}

const fn yes() -> bool {
    true
}

fn conditions(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Vec::<Condition>::json_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), vec!["type"].into());
    schema
}
