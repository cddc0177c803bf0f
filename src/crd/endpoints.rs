//! `regions[].endpoints`: the addresses that the relays of a region advertise.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    endpoints::{Advertise, DEFAULT_MAX, Discover, MOST},
    interface_pattern::LONGEST,
};

/// Pattern of one endpoint: an address or a name, a colon and a port.
const PATTERN: &str =
    r"^(\[[0-9a-fA-F:.]+\]|[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z.])?):[1-9][0-9]{0,4}$";

/// Addresses that relays advertise to clients. The port of an endpoint may differ from the port on
/// which the relay listens, for example behind a port forward.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(r"self.static.all(e, e.matches('^(\\[[0-9a-fA-F:.]+\\]|[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z.])?):[1-9][0-9]{0,4}$'))").message("endpoints.static: write each as 203.0.113.10:40000, [2001:db8::1]:40000 or relay.example.net:40000"))]
#[x_kube(validation = Rule::new(r"!self.static.exists(e, e.matches('^(0[.]0[.]0[.]0|127[.].*|\\[::1?\\]|localhost):'))").message("endpoints.static: an address of the node itself reaches no relay from elsewhere; give the address that clients send to"))]
#[x_kube(validation = Rule::new("self.include.all(n, isCIDR(n))").message("endpoints.include: write networks as 10.0.0.0/8 or 2001:db8::/32"))]
#[x_kube(validation = Rule::new("self.exclude.all(n, isCIDR(n))").message("endpoints.exclude: write networks as 10.0.0.0/8 or 2001:db8::/32"))]
#[x_kube(validation = Rule::new(r"!has(self.includeInterfaces) || self.includeInterfaces.all(i, i.matches('^[^/:\\s]+$'))").message("endpoints.includeInterfaces: write names as eth0, or patterns as en*"))]
#[x_kube(validation = Rule::new(r"!has(self.excludeInterfaces) || self.excludeInterfaces.all(i, i.matches('^[^/:\\s]+$'))").message("endpoints.excludeInterfaces: write names as eth0, or patterns as en*"))]
pub struct Endpoints {
    /// Endpoints that every relay of the region advertises first: `203.0.113.10:40000`,
    /// `[2001:db8::1]:40000` or `relay.example.net:40000`. Names are resolved again every 30
    /// seconds.
    #[serde(rename = "static", default)]
    // The API server estimates the cost of rules from the limits of lists and texts, and refuses a
    // definition whose rules may cost too much.
    #[schemars(length(max = 16), inner(length(min = 1, max = 270)))]
    pub fixed: Vec<String>,
    /// Endpoints of single nodes, by the name of the node. They come before `static`. The node
    /// annotation `peerrelay.dev/static-endpoints` has the same effect. Its value is a list
    /// separated by commas.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub per_node: BTreeMap<String, NodeList>,
    /// Sources of further addresses, in the order in which they are advertised. If empty, relays on
    /// the host network use `NodeExternalIP`, `CloudMetadata`, `Stun` and `Interface`. Relays
    /// behind a Service use none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub discover: Option<Vec<Discover>>,
    /// Networks of addresses to advertise. They apply to discovered addresses and to those of
    /// Services, and not to static ones. If empty, all are advertised.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 50)))]
    pub include: Vec<String>,
    /// Networks of addresses that are not advertised. They apply to discovered addresses and to
    /// those of Services.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 50)))]
    pub exclude: Vec<String>,
    /// Names of interfaces whose addresses are discovered, for example `eth0` or `en*`. They apply to
    /// the source `Interface`. If empty, all interfaces that lead out of the node are used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = LONGEST)))]
    pub include_interfaces: Vec<String>,
    /// Names of interfaces whose addresses are not discovered. They apply to the source `Interface`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = LONGEST)))]
    pub exclude_interfaces: Vec<String>,
    /// Addresses to advertise. With `StaticOnly`, relays advertise only `static`, `perNode` and the
    /// node annotation.
    #[serde(default)]
    pub advertise: Advertise,
    /// Maximum number of endpoints of a relay.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = MOST))]
    pub max: u8,
}

/// Endpoints of one node.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(transparent)]
pub struct NodeList(
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 270), regex(pattern = PATTERN))
    )]
    pub Vec<String>,
);

fn default_max() -> u8 {
    DEFAULT_MAX
}
