//! `PeerRelay`: the relays of a tailnet, by region.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{
    credential::{AuthKeyRef, CredentialIdentity, CredentialsRef, OAuthRef, WorkloadIdentity},
    device::{DeletionPolicy, MOST_DEVICES, RelayDevice},
    endpoints::Endpoints,
    exposure::Exposure,
    grants::{ClientStatus, GrantState, Grants, GrantsStatus, PolicyStatus},
    limits::Limits,
    monitoring::Monitoring,
    placement::Placement,
    template::Template,
};
use crate::config::{DEFAULT_PORT, data_path::DataPath, log_level::LogLevel};

/// Specification of the relays of one tailnet on the nodes of this cluster.
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
    // A name cannot change: for an older object, the rule would block every change, also that of
    // finalizers.
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
#[x_kube(validation = Rule::new("!has(self.tailnet.apiURL) || !has(self.tailnet.authKey) || (has(self.grants.sync) && self.grants.sync != 'Off')").message("tailnet.apiURL has no effect with authKey and without grants.sync: remove it"))]
#[x_kube(validation = Rule::new("!has(self.grants.apiKey) || has(self.tailnet.controlURL) || has(self.tailnet.apiURL) || has(self.tailnet.credentialsRef)").message("grants.apiKey is an API key of Headscale: set tailnet.controlURL to the URL of Headscale, or use grants.oauth for tailscale.com"))]
#[x_kube(validation = Rule::new("!has(self.monitoring.port) || self.port != self.monitoring.port").message("monitoring.port must differ from port: both are opened on the node"))]
pub struct PeerRelaySpec {
    /// UDP port that relays open on their nodes. Clients must be able to reach it.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Stop reconciling this object. While this is true, the operator creates, changes and removes
    /// nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Run relays on the nodes. If false, all relays are removed, and everything else stays: grants,
    /// node ports and the identities on the nodes. If it becomes true again, the same devices
    /// return. Before a relay is removed, its clients have up to two minutes to find another one.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Tailnet that the relays join.
    pub tailnet: Tailnet,
    /// Groups of relays with their clients. Each region has its own DaemonSet and its own tag.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub regions: Vec<Region>,
    /// Data path that forwards packets of open sessions. With `Auto`, relays on the host network
    /// use the kernel if the node supports it. Other relays use sockets. Each `RelayNode` shows the
    /// data path in use and the reason.
    #[serde(default)]
    pub data_path: DataPath,
    /// Maximum number of relays of all regions together. If empty, it is 2 for the control server
    /// of tailscale.com, which is the documented allowance, and unlimited for others. A lower value
    /// does not stop relays that run. The condition `WithinQuota` also counts the relays of other
    /// PeerRelays of the cluster with the same control server and credential. It then compares the
    /// sum with the greatest `maxRelays` among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub max_relays: Option<u16>,
    /// Limits of each relay: sessions and bandwidth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Log level of the relays. A change takes effect without a restart.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Metrics of the relays, and the objects that collect them.
    #[serde(default)]
    #[schemars(default = "Monitoring::default")]
    pub monitoring: Monitoring,
    /// The part of the tailnet policy that allows clients to use the relays.
    #[serde(default)]
    #[schemars(default = "Grants::default")]
    pub grants: Grants,
    /// Template of the relays' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

/// Tailnet that relays join.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.controlURL) || self.controlURL.matches('^https?://[^/?#]+/?$')").message("tailnet.controlURL must be a URL without a path, such as https://control.example.net"))]
#[x_kube(validation = Rule::new("[has(self.authKey), has(self.oauth), has(self.workloadIdentity), has(self.credentialsRef)].filter(given, given).size() == 1").message("tailnet must have either authKey (a Secret with an auth key), oauth (a Secret with an OAuth client, with which the operator creates auth keys), workloadIdentity (a federated identity, with which it does) or credentialsRef (a TailnetCredential, which has one of the last two)"))]
// With URLs of its own, a PeerRelay could have the secret of the TailnetCredential sent to a server of its
// choice.
#[x_kube(validation = Rule::new("!has(self.credentialsRef) || !(has(self.controlURL) || has(self.apiURL) || has(self.caBundle))").message("tailnet.controlURL, apiURL and caBundle are fields of the TailnetCredential with credentialsRef: remove them here, and set them there"))]
#[x_kube(validation = Rule::new("!has(self.apiURL) || self.apiURL.matches('^https?://[^/?#]+/?$')").message("tailnet.apiURL must be a URL without a path, such as https://api.example.net"))]
#[x_kube(validation = Rule::new("!has(self.deletionPolicy) || self.deletionPolicy != 'Delete' || !has(self.authKey)").message("tailnet.deletionPolicy: Delete needs oauth, workloadIdentity or credentialsRef, with which the operator deletes devices: set one of them, or remove deletionPolicy"))]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.caBundle.contains('-----BEGIN CERTIFICATE-----')").message("tailnet.caBundle must be PEM: one or more blocks that begin with -----BEGIN CERTIFICATE-----"))]
pub struct Tailnet {
    /// Auth key with which relays register. It should be reusable and pre-approved, and must be
    /// allowed to use the tags of all regions. Set this, `oauth`, `workloadIdentity` or
    /// `credentialsRef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<AuthKeyRef>,
    /// OAuth client with which the operator creates an auth key for each relay, when the relay
    /// needs one. The client needs the scope `auth_keys` and one tag, which must own the tags of
    /// all regions (`tagOwners` of the tailnet policy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthRef>,
    /// Federated identity with which the operator creates auth keys as with `oauth`. It trusts the
    /// tokens that the cluster gives the operator, so that there is no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// TailnetCredential with an OAuth client or a federated identity, which PeerRelays of several
    /// namespaces can share. It also has the URLs of the control server and the API, and the
    /// certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<CredentialsRef>,
    /// URL of the API with which the operator creates auth keys, deletes devices and accesses the
    /// policy. If empty, it is the API of tailscale.com, or `controlURL` if that is another control
    /// server.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub api_url: Option<String>,
    /// URL of the control server. If empty, the control server of tailscale.com is used.
    #[serde(
        default,
        rename = "controlURL",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 512))]
    pub control_url: Option<String>,
    /// PEM certificates of additional certificate authorities, for control and DERP servers with
    /// certificates from a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub ca_bundle: Option<String>,
    /// Prefix of the device names. A device is named PREFIX-NODE, or PREFIX-REGION-NODE on the pod
    /// network. If empty, the name of the PeerRelay is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 30), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub hostname_prefix: Option<String>,
    /// Register ephemeral devices. The control server removes them when they are offline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Effect of the removal of relays on their devices: of the PeerRelay, a region or a node, or
    /// of a relay that another placement removes. If empty, it is `Retain` with `authKey`, and
    /// otherwise `Delete`. With `Delete`, the credential needs the scope `devices:core` too, and
    /// the deletion of the PeerRelay waits up to two minutes for the deletion of its devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

impl Tailnet {
    /// Returns the identity of the credential of a PeerRelay in this namespace. An OAuth client has
    /// two keys in its Secret, which are always the same.
    pub fn credential<'a>(&'a self, namespace: &'a str) -> CredentialIdentity<'a> {
        let of = |namespace: Option<&'a str>, name: &'a str, key: &'a str| CredentialIdentity {
            namespace: namespace.map(Into::into),
            name: name.into(),
            key: key.into(),
        };
        let own = Some(namespace);
        match self {
            Self {
                credentials_ref: Some(reference),
                ..
            } => of(None, &reference.name, ""),
            Self {
                auth_key: Some(auth_key),
                ..
            } => of(own, &auth_key.secret_name, auth_key.key()),
            Self {
                oauth: Some(oauth), ..
            } => of(own, &oauth.secret_name, ""),
            Self {
                workload_identity: Some(identity),
                ..
            } => of(own, "", &identity.client_id),
            _ => of(own, "", ""),
        }
    }
}

/// Group of relays for a group of clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.tag) || self.tag != '*'").message("tag must not be '*': every device of the tailnet would become a relay that clients try; name a tag that only relays have"))]
#[x_kube(validation = Rule::new("self.name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$')").message("name must be lower-case letters, digits and dashes, begin with a letter and end with a letter or digit, such as eu-west: it is a part of the names of Services, which allow nothing else"))]
#[x_kube(validation = Rule::new("!(self.name in ['grants', 'metrics', 'dashboard'])").message("name must not be grants, metrics or dashboard: objects of the PeerRelay as a whole have these names"))]
pub struct Region {
    /// Name of the region, unique within the PeerRelay.
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Tag of the relays' devices. If empty, `tag:relay-<name>` is used. No other device should
    /// have this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^tag:[a-zA-Z][a-zA-Z0-9-]*$"))]
    pub tag: Option<String>,
    /// Clients that may use these relays, in the syntax of a tailnet policy: `tag:office`,
    /// `group:eng`, `autogroup:member`, `alice@example.com`, a host alias, or an address or network
    /// of the tailnet. `*` allows everyone, which is rarely intended.
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 256), regex(pattern = "^[^\\s\"]+$"))
    )]
    pub clients: Vec<String>,
    /// Grant devices with the relays' tag access to these relays too. Set it if a device with this
    /// tag relays for itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub self_relay: bool,
    /// Nodes on which relays run. By default, a relay runs on each node that matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Exposure of these relays to their clients. If empty, relays use the network of their nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Exposure>,
    /// Addresses that relays advertise to clients. If empty, relays on the host network advertise
    /// the addresses of four sources (see `discover`), and relays behind a Service advertise the
    /// addresses of the Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
}

impl Region {
    /// Returns the tag of the relays' devices.
    pub fn tag(&self) -> String {
        self.tag
            .clone()
            .unwrap_or_else(|| format!("tag:relay-{}", self.name))
    }
}

/// Status of the PeerRelay, as observed by the operator.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerRelayStatus {
    /// Generation of the spec that this status describes. It is -1 before the first reconciliation.
    #[serde(default)]
    pub observed_generation: i64,
    /// Conditions: Ready, Reconciling, Stalled, TailnetConnected, WithinQuota, RelaysAvailable,
    /// GrantsInForce, PolicySynced, EndpointsPublished, EndpointsVerified, CredentialAccepted,
    /// CredentialExpiring, DevicesDeleted.
    /// `docs/conditions.md` lists the reasons and their remedies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
    /// Number of ready relays and of desired relays, such as `2/2`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relays: String,
    // A printer column shows only the first value that its path finds, so lists have texts for kubectl.
    /// Names of the regions, as shown by kubectl.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region_names: String,
    /// Exposure types of the regions, as shown by kubectl.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exposure: String,
    /// First endpoint of each relay, as shown by kubectl. At most 10 are listed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoints: String,
    /// Number of open sessions of all relays, as last reported.
    #[serde(default)]
    pub sessions: i64,
    /// Domain of the tailnet that the relays have joined, as they report it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tailnet: String,
    /// Summary of each region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RegionStatus>,
    // A RelayNode goes with its pod, before it is known whether another pod follows, so the record is
    // here.
    /// Tailnet devices that the operator deletes when their relays are removed. Only these are
    /// deleted. They are listed with `tailnet.deletionPolicy: Delete`, at most 1000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MOST_DEVICES))]
    pub devices: Vec<RelayDevice>,
    /// Tailnet policy that was generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<GrantsStatus>,
    /// State of `grants.sync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyStatus>,
}

/// Summary of one region.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegionStatus {
    /// Name of the region.
    pub name: String,
    /// Tag of the region's relays.
    pub tag: String,
    /// Exposure type of the region's relays.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exposure: String,
    /// Number of nodes that match the placement.
    #[serde(default)]
    pub nodes: i32,
    /// Number of relays that `maxRelays` keeps from running.
    #[serde(default)]
    pub excess: i32,
    /// Number of relays that should run.
    pub desired: i32,
    /// Number of relays that are ready.
    pub ready: i32,
    /// Number of tailnet devices that the policy allows to use each relay, as the relays see it.
    pub granted_peers: i64,
    /// State of the grant for the region's clients.
    #[serde(default)]
    pub grant: GrantState,
    /// Use of each entry of `clients`, to find rules that are not used any more. At most 256
    /// entries are listed for all regions together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub clients: Vec<ClientStatus>,
    /// Ports that firewalls in front of the nodes must open. `peerrelay firewall` prints the
    /// commands.
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
    // A list without keys has one owner as a whole in server-side apply.
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), vec!["type"].into());
    schema
}
