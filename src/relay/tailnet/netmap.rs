//! The network map: who is in the tailnet, and who may relay through this device.

mod grants;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use relay_proto::{DiscoPublic, NodeKey, Peer};

use crate::relay::sessions::Name;

use super::wire::{CapGrant, DerpMap, FilterRule, MapResponse, Node, PeerChange};

/// Peer capability that lets a source allocate sessions on a relay (`tailcfg.PeerCapabilityRelay`).
const CAP_RELAY: &str = "tailscale.com/cap/relay";
/// Node attribute that turns a relay off (`tailcfg.NodeAttrDisableRelayServer`).
const ATTR_DISABLED: &str = "disable-relay-server";
/// Name under which `MapResponse.PacketFilter` is one of the `PacketFilters`.
const BASE_FILTER: &str = "base";
/// Key in `PacketFilters` whose null value clears all that came before.
const ALL_FILTERS: &str = "*";

/// What the map stream has said so far.
#[derive(Debug, Default)]
pub(crate) struct Netmap {
    own: Option<Node>,
    peers: HashMap<i64, Node>,
    ids: HashMap<NodeKey, i64>,
    filters: BTreeMap<String, Vec<RelayRule>>,
    /// Control has said what is allowed, be it nothing.
    filtered: bool,
    derp: Arc<DerpMap>,
}

/// A filter rule that grants the relay capability.
#[derive(Debug)]
struct RelayRule {
    sources: Vec<AddressSet>,
    destinations: Vec<AddressSet>,
}

/// A `SrcIPs` or `Dsts` entry (`tailcfg.FilterRule.SrcIPs`).
#[derive(Debug, PartialEq, Eq)]
enum AddressSet {
    All,
    Net(IpNet),
    Range(IpAddr, IpAddr),
    Attribute(String),
}

impl Netmap {
    /// Takes in one message of the stream, in the order that `tailcfg.MapResponse` states.
    pub(crate) fn apply(&mut self, message: MapResponse) {
        if let Some(own) = message.node {
            self.own = Some(own);
        }
        // Without regions it only changes parameters that are of no use here.
        if let Some(derp) = message.derp_map.filter(|derp| !derp.regions.is_empty()) {
            self.derp = Arc::new(derp);
        }
        if let Some(peers) = message.peers {
            self.peers.clear();
            self.ids.clear();
            peers.into_iter().for_each(|peer| self.insert(peer));
        }
        message
            .peers_changed
            .into_iter()
            .for_each(|peer| self.insert(peer));
        message.peers_removed.iter().for_each(|id| self.remove(*id));
        message
            .peers_changed_patch
            .into_iter()
            .for_each(|change| self.patch(change));
        self.filtered |= message.packet_filter.is_some() || !message.packet_filters.is_empty();
        self.apply_filters(message.packet_filter, message.packet_filters);
    }

    /// Who may use this relay; `None` before control has said who is there and what they may.
    pub(crate) fn allowed(&self) -> Option<BTreeSet<NodeKey>> {
        let known = self.filtered && self.own.is_some() && !self.peers.is_empty();
        known.then(|| {
            let peers = self.peers.values();
            let may = peers.filter(|peer| self.may_relay(peer));
            may.filter_map(|peer| peer.key).collect()
        })
    }

    /// This device.
    pub(crate) const fn own(&self) -> Option<&Node> {
        self.own.as_ref()
    }

    /// DERP regions.
    pub(crate) fn derp(&self) -> &Arc<DerpMap> {
        &self.derp
    }

    /// Whether the policy has turned this relay off.
    pub(crate) fn relay_disabled(&self) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.has_attribute(ATTR_DISABLED))
    }

    /// What the relay must know of the sender of a DERP packet, and its home region.
    pub(crate) fn peer(&self, key: NodeKey) -> Option<(Peer, Option<u32>)> {
        let node = self.peers.get(self.ids.get(&key)?)?;
        let peer = Peer {
            node_key: key,
            disco: node.disco_key,
            may_relay: self.may_relay(node),
            unsigned_peer_api_only: node.unsigned_peer_api_only,
        };
        Some((peer, node.home_region()))
    }

    /// The tags of peers that have some, each tag by a number that holds for this answer.
    pub(crate) fn tags(&self) -> BTreeMap<NodeKey, Vec<u32>> {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut all = BTreeMap::new();
        for peer in self.peers.values().filter(|peer| !peer.tags.is_empty()) {
            let Some(key) = peer.key else { continue };
            let tags: BTreeSet<_> = peer.tags.iter().map(String::as_str).collect();
            let number = |tag| {
                let next = numbers.len() as u32;
                *numbers.entry(tag).or_insert(next)
            };
            all.insert(key, tags.into_iter().map(number).collect());
        }
        all
    }

    /// What clients are called, by disco key.
    pub(crate) fn names(&self) -> HashMap<DiscoPublic, Name> {
        let nodes = self.peers.values().chain(&self.own);
        let named = nodes.filter_map(|node| {
            let name = Name {
                node: node.name.trim_end_matches('.').to_owned(),
                tags: node.tags.clone(),
            };
            Some((node.disco_key?, name))
        });
        named.collect()
    }

    fn may_relay(&self, peer: &Node) -> bool {
        let Some(own) = &self.own else { return false };
        if peer.unsigned_peer_api_only {
            return false;
        }
        peer.ips().any(|source| {
            let mut destinations = own.ips().filter(|own| own.is_ipv4() == source.is_ipv4());
            destinations.any(|to| {
                self.filters
                    .values()
                    .flatten()
                    .any(|r| r.grants(peer, source, to))
            })
        })
    }

    fn insert(&mut self, peer: Node) {
        self.remove(peer.id);
        if let Some(key) = peer.key {
            self.ids.insert(key, peer.id);
        }
        self.peers.insert(peer.id, peer);
    }

    fn remove(&mut self, id: i64) {
        let Some(key) = self.peers.remove(&id).and_then(|peer| peer.key) else {
            return;
        };
        if self.ids.get(&key) == Some(&id) {
            self.ids.remove(&key);
        }
    }

    fn patch(&mut self, change: PeerChange) {
        let Some(mut peer) = self.peers.get(&change.node_id).cloned() else {
            return;
        };
        if change.derp_region != 0 {
            peer.home_derp = change.derp_region;
        }
        peer.key = change.key.or(peer.key);
        peer.disco_key = change.disco_key.or(peer.disco_key);
        peer.cap_map = change.cap_map.unwrap_or(peer.cap_map);
        self.insert(peer);
    }

    fn apply_filters(
        &mut self,
        base: Option<Vec<FilterRule>>,
        mut named: BTreeMap<String, Option<Vec<FilterRule>>>,
    ) {
        if let Some(rules) = base {
            self.filters.insert(BASE_FILTER.into(), relay_rules(&rules));
        }
        if let Some(None) = named.remove(ALL_FILTERS) {
            self.filters.clear();
        }
        for (name, rules) in named {
            match rules {
                Some(rules) => self.filters.insert(name, relay_rules(&rules)),
                None => self.filters.remove(&name),
            };
        }
    }
}

impl RelayRule {
    fn grants(&self, peer: &Node, source: IpAddr, destination: IpAddr) -> bool {
        self.sources.iter().any(|set| set.holds(source, Some(peer)))
            && self
                .destinations
                .iter()
                .any(|set| set.holds(destination, None))
    }
}

impl AddressSet {
    fn holds(&self, ip: IpAddr, node: Option<&Node>) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => net.contains(&ip),
            Self::Range(first, last) => (first..=last).contains(&&ip),
            Self::Attribute(name) => node.is_some_and(|node| node.has_attribute(name)),
        }
    }

    /// `None` for a form that this version does not know: it grants nothing.
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some(name) = text.strip_prefix("cap:") {
            return Some(Self::Attribute(name.into()));
        }
        if let Some((first, last)) = text.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
            return (first.is_ipv4() == last.is_ipv4()).then_some(Self::Range(first, last));
        }
        text.parse()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(Self::Net)
    }
}

fn relay_rules(rules: &[FilterRule]) -> Vec<RelayRule> {
    let sets = |texts: &[String]| texts.iter().filter_map(|t| AddressSet::parse(t)).collect();
    let is_relay = |grant: &&CapGrant| {
        grant.cap_map.contains_key(CAP_RELAY) || grant.caps.iter().any(|c| c == CAP_RELAY)
    };
    let of_rule = |rule: &FilterRule| -> Vec<RelayRule> {
        let grants = rule.cap_grant.iter().filter(is_relay);
        let rule = |grant: &CapGrant| RelayRule {
            sources: sets(&rule.src_ips),
            destinations: sets(&grant.dsts),
        };
        grants.map(rule).collect()
    };
    rules.iter().flat_map(of_rule).collect()
}

#[cfg(test)]
mod tests;
