//! Control protocol messages as JSON (`tailcfg.RegisterRequest`, `tailcfg.MapRequest`,
//! `tailcfg.MapResponse`), reduced to what a relay says and reads.
//!
//! Reading is tolerant: fields may be missing, null or unknown, so that a newer control server is
//! understood. Only keys, addresses and times must parse.

use std::{collections::BTreeMap, mem, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    address_set::AddressSet,
    json::{disco_key, is_given, node_key, or_default, point_in_time},
    peers::{Peer, PeerChange, Peers},
};
use crate::relay::addresses::StunServer;

/// UDP port of STUN (RFC 8489).
const DEFAULT_STUN_PORT: u16 = 3478;

/// Asks for a place in the tailnet.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct RegisterRequest<'a> {
    pub(crate) version: u16,
    pub(crate) node_key: String,
    /// Key of the device in tailnet lock, if the tailnet has that on.
    #[serde(rename = "NLKey")]
    pub(crate) network_lock_key: String,
    /// Signature of Tailnet Lock on the node key, in base64, which an auth key allows to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_key_signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth: Option<Auth<'a>>,
    pub(crate) hostinfo: &'a Hostinfo,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ephemeral: bool,
}

/// The secret that lets it in.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Auth<'a> {
    pub(crate) auth_key: &'a str,
}

impl std::fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth(..)")
    }
}

/// Answer of control to [`RegisterRequest`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RegisterResponse {
    #[serde(deserialize_with = "or_default")]
    pub(crate) node_key_expired: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) machine_authorized: bool,
    #[serde(rename = "AuthURL", deserialize_with = "or_default")]
    pub(crate) auth_url: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) error: String,
}

/// Asks for network maps, or tells control about this device.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MapRequest<'a> {
    pub(crate) version: u16,
    pub(crate) keep_alive: bool,
    /// Compression of the answers.
    pub(crate) compress: &'static str,
    pub(crate) node_key: String,
    pub(crate) disco_key: String,
    pub(crate) stream: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) omit_peers: bool,
    pub(crate) hostinfo: &'a Hostinfo,
}

/// Properties that this device reports of itself.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Hostinfo {
    #[serde(rename = "IPNVersion")]
    pub(crate) ipn_version: &'static str,
    #[serde(rename = "OS")]
    pub(crate) os: &'static str,
    pub(crate) app: &'static str,
    pub(crate) hostname: String,
    pub(crate) request_tags: Vec<String>,
    pub(crate) peer_relay: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) net_info: Option<NetInfo>,
}

/// Home DERP region.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NetInfo {
    #[serde(rename = "PreferredDERP")]
    pub(crate) preferred_derp: u32,
}

/// One message of the map stream.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct MapResponse {
    #[serde(deserialize_with = "or_default")]
    pub(crate) keep_alive: bool,
    pub(crate) node: Option<Node>,
    #[serde(rename = "DERPMap")]
    pub(crate) derp_map: Option<DerpMap>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) peers: Peers,
    #[serde(deserialize_with = "or_default")]
    pub(crate) peers_changed: Vec<Peer>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) peers_removed: Vec<i64>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) peers_changed_patch: Vec<PeerChange>,
    pub(crate) packet_filter: Option<Vec<FilterRule>>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) packet_filters: BTreeMap<String, Option<Vec<FilterRule>>>,
    #[serde(deserialize_with = "point_in_time")]
    pub(crate) control_time: Option<Timestamp>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) user_profiles: Vec<UserProfile>,
    /// Absent before Tailnet Lock is enabled, and from messages in which its state does not change.
    #[serde(rename = "TKAInfo")]
    pub(crate) tailnet_lock: Option<TailnetLock>,
}

/// The part of a message that is about peers.
#[derive(Debug, Default)]
pub(crate) struct PeerChanges {
    /// All peers, unless it is empty.
    pub(crate) all: Peers,
    pub(crate) changed: Vec<Peer>,
    pub(crate) removed: Vec<i64>,
    pub(crate) patches: Vec<PeerChange>,
}

impl MapResponse {
    /// Takes out what is about peers, without patches that change nothing for a relay. A keep-alive is not
    /// about peers, whatever it has.
    pub(crate) fn take_peer_changes(&mut self) -> PeerChanges {
        if self.keep_alive {
            return PeerChanges::default();
        }
        let mut patches = mem::take(&mut self.peers_changed_patch);
        patches.retain(|patch| !patch.is_empty());
        PeerChanges {
            all: mem::take(&mut self.peers),
            changed: mem::take(&mut self.peers_changed),
            removed: mem::take(&mut self.peers_removed),
            patches,
        }
    }

    /// Returns whether all but the changes of peers can be applied in a moment.
    pub(crate) fn is_small(&self) -> bool {
        self.packet_filter.is_none()
            && self.node.is_none()
            && self.user_profiles.is_empty()
            && self.packet_filters.is_empty()
    }
}

impl PeerChanges {
    /// Returns the number of peers that change.
    pub(crate) fn len(&self) -> usize {
        self.all.len() + self.changed.len() + self.removed.len() + self.patches.len()
    }
}

/// State of Tailnet Lock (`tailcfg.TKAInfo`). It is enabled unless this says otherwise.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TailnetLock {
    #[serde(deserialize_with = "or_default")]
    pub(crate) disabled: bool,
}

/// A user who owns devices.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UserProfile {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub(crate) id: i64,
    #[serde(deserialize_with = "or_default")]
    pub(crate) login_name: String,
}

/// This device as control has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub(crate) id: i64,
    #[serde(rename = "StableID", deserialize_with = "or_default")]
    pub(crate) stable_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "node_key")]
    pub(crate) key: Option<NodeKey>,
    /// Control has a signature of Tailnet Lock on the node key.
    #[serde(rename = "KeySignature", deserialize_with = "is_given")]
    pub(crate) is_signed: bool,
    #[serde(deserialize_with = "disco_key")]
    pub(crate) disco_key: Option<DiscoPublic>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) addresses: Vec<IpNet>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) tags: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) capabilities: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cap_map: BTreeMap<String, IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) machine_authorized: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) expired: bool,
    #[serde(deserialize_with = "point_in_time")]
    pub(crate) key_expiry: Option<Timestamp>,
}

impl Node {
    /// Returns whether the node attribute `name` is set.
    pub(crate) fn has_attribute(&self, name: &str) -> bool {
        self.cap_map.contains_key(name) || self.capabilities.iter().any(|c| c == name)
    }

    /// Returns whether the node key has expired, by control or by the time. `now` is control's time.
    pub(crate) fn has_expired(&self, now: Option<Timestamp>) -> bool {
        let is_over = |expiry| now.is_some_and(|now| expiry <= now);
        self.expired || self.key_expiry.is_some_and(is_over)
    }

    /// The device's own addresses.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses
            .iter()
            .filter(|net| net.prefix_len() == net.max_prefix_len())
            .map(IpNet::addr)
    }
}

/// A rule of the packet filter; only its capability grants matter to a relay.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct FilterRule {
    #[serde(rename = "SrcIPs", deserialize_with = "or_default")]
    pub(crate) src_ips: AddressSet,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cap_grant: Vec<CapGrant>,
}

/// Capabilities towards some destinations.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CapGrant {
    #[serde(deserialize_with = "or_default")]
    pub(crate) dsts: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) caps: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cap_map: BTreeMap<String, IgnoredAny>,
}

/// DERP regions, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DerpMap {
    #[serde(deserialize_with = "or_default")]
    pub(crate) regions: BTreeMap<u32, Option<DerpRegion>>,
}

impl DerpMap {
    /// A STUN server of each region, in the order of regions.
    pub(crate) fn stun_servers(&self) -> Vec<StunServer> {
        let first = |region: &DerpRegion| region.nodes.iter().find_map(DerpNode::stun_server);
        self.regions.values().flatten().filter_map(first).collect()
    }
}

/// A region of DERP servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DerpRegion {
    #[serde(deserialize_with = "or_default")]
    pub(crate) region_code: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) avoid: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) no_measure_no_home: bool,
    #[serde(deserialize_with = "or_default")]
    pub(crate) nodes: Vec<DerpNode>,
}

/// A server of a DERP region.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct DerpNode {
    #[serde(deserialize_with = "or_default")]
    pub(crate) host_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) cert_name: String,
    #[serde(rename = "IPv4", deserialize_with = "or_default")]
    pub(crate) ipv4: String,
    #[serde(rename = "IPv6", deserialize_with = "or_default")]
    pub(crate) ipv6: String,
    #[serde(rename = "STUNOnly", deserialize_with = "or_default")]
    pub(crate) stun_only: bool,
    /// 0 for the usual one, negative for none.
    #[serde(rename = "STUNPort", deserialize_with = "or_default")]
    pub(crate) stun_port: i32,
    #[serde(rename = "DERPPort", deserialize_with = "or_default")]
    pub(crate) derp_port: u16,
    /// The server's certificate is not verified.
    #[serde(deserialize_with = "or_default")]
    pub(crate) insecure_for_tests: bool,
}

impl DerpNode {
    fn stun_server(&self) -> Option<StunServer> {
        let port = match self.stun_port {
            0 => DEFAULT_STUN_PORT,
            port => u16::try_from(port).ok()?,
        };
        let addresses = [&self.ipv4, &self.ipv6];
        Some(StunServer {
            host: self.host_name.clone(),
            // `none` stands for a server without this IP version, an empty text for an address to look
            // up.
            addresses: addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    /// The message is made with Tailscale's own types (tests/rig/tools/tailnet/vectors), which set
    /// all that is read here: what has no value has another name there.
    #[test]
    fn every_field_has_the_name_that_tailscale_gives_it() {
        let map: MapResponse = serde_json::from_str(include_str!("wire/map.json")).unwrap();
        let read = format!("{map:#?}");
        let is_unset = |line: &&str| {
            let value = line
                .split_once(": ")
                .map(|(_, value)| value.trim_end_matches(','));
            matches!(value, Some("false" | "0" | "None" | "[]" | "{}" | "\"\""))
        };
        let unset: Vec<_> = read.lines().filter(is_unset).collect();
        assert!(unset.is_empty(), "{unset:#?}");
    }

    #[test]
    fn nulls_of_go_and_unknown_fields_are_read() {
        let text = r#"{"Peers":null,"PeersChanged":null,"PacketFilter":null,"Future":[1],
            "Node":{"ID":3,"DiscoKey":"","Addresses":null,"CapMap":null}}"#;
        let map: MapResponse = serde_json::from_str(text).unwrap();
        assert!(map.peers.len() == 0 && map.packet_filter.is_none());
        let node = map.node.unwrap();
        assert_eq!((node.id, node.disco_key), (3, None));
    }

    #[test]
    fn stun_servers_are_those_that_the_map_has_not_turned_off() {
        let text = r#"{"Regions":{"2":{"Nodes":[{"STUNPort":-1},{"HostName":"b","IPv4":"192.0.2.2"}]},
            "1":{"Nodes":[{"HostName":"a","IPv4":"none","IPv6":"2001:db8::1","STUNPort":9}]},"3":null}}"#;
        let map: DerpMap = serde_json::from_str(text).unwrap();
        let servers = map.stun_servers();
        let shown: Vec<_> = servers
            .iter()
            .map(|s| (&*s.host, s.port, s.addresses.len()))
            .collect();
        assert_eq!(shown, [("a", 9, 1), ("b", 3478, 1)]);
    }

    #[test]
    fn keys_are_read_and_zero_means_none() {
        let zero = format!("discokey:{}", "0".repeat(64));
        let some = format!("nodekey:{}", "ab".repeat(32));
        let text = format!(r#"{{"Key":"{some}","DiscoKey":"{zero}"}}"#);
        let node: Node = serde_json::from_str(&text).unwrap();
        assert_eq!(node.key, Some(NodeKey([0xab; 32])));
        assert_eq!(node.disco_key, None);
        assert!(serde_json::from_str::<Node>(r#"{"Key":"mkey:00"}"#).is_err());
    }

    #[test]
    fn auth_key_is_never_printed() {
        assert_eq!(
            format!(
                "{:?}",
                Auth {
                    auth_key: "tskey-secret"
                }
            ),
            "Auth(..)"
        );
    }
}
