//! The part of the packet filter that grants the relay capability.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::relay::tailnet::wire::{CapGrant, FilterRule};

/// Peer capability that lets a source allocate sessions on a relay (`tailcfg.PeerCapabilityRelay`).
pub(super) const CAP_RELAY: &str = "tailscale.com/cap/relay";
/// Name under which `MapResponse.PacketFilter` is one of the `PacketFilters`.
const BASE_FILTER: &str = "base";
/// Key in `PacketFilters` whose null value clears all that came before.
const ALL_FILTERS: &str = "*";

/// The named packet filters of one map stream.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<String, Vec<RelayRule>>);

/// A filter rule that grants the relay capability.
#[derive(Debug)]
pub(super) struct RelayRule {
    pub(super) sources: Vec<AddressSet>,
    pub(super) destinations: Vec<AddressSet>,
}

/// A `SrcIPs` or `Dsts` entry (`tailcfg.FilterRule.SrcIPs`).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AddressSet {
    All,
    Net(IpNet),
    Range(IpAddr, IpAddr),
}

impl Filters {
    /// Takes in `MapResponse.PacketFilter` and then `MapResponse.PacketFilters`.
    pub(super) fn apply(
        &mut self,
        base: Option<&[FilterRule]>,
        mut named: BTreeMap<String, Option<Vec<FilterRule>>>,
    ) {
        if let Some(rules) = base {
            self.0.insert(BASE_FILTER.into(), relay_rules(rules));
        }
        if let Some(None) = named.remove(ALL_FILTERS) {
            self.0.clear();
        }
        for (name, rules) in named {
            match rules {
                Some(rules) => self.0.insert(name, relay_rules(&rules)),
                None => self.0.remove(&name),
            };
        }
    }

    /// Rules of all filters.
    pub(super) fn rules(&self) -> impl Iterator<Item = &RelayRule> {
        self.0.values().flatten()
    }

    /// Returns whether `source` may use a relay that has the address `destination`.
    pub(super) fn grants(&self, source: IpAddr, destination: IpAddr) -> bool {
        let hold = |sets: &[AddressSet], ip| sets.iter().any(|set| set.holds(ip));
        self.rules()
            .any(|rule| hold(&rule.sources, source) && hold(&rule.destinations, destination))
    }
}

impl AddressSet {
    pub(super) fn holds(&self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => net.contains(&ip),
            Self::Range(first, last) => (first..=last).contains(&&ip),
        }
    }

    /// A source as `filter.MatchesFromFilterRules` reads it. `None` grants nothing: a form that is
    /// not known, an invalid one, and a node attribute (`cap:NAME`), which counts for ports only
    /// (`filter.Filter.CapsWithValues`).
    pub(super) fn source(text: &str) -> Option<Self> {
        match Self::destination(text)? {
            Self::Net(net) if net.addr() != net.network() => None,
            set => Some(set),
        }
    }

    /// A destination of a capability grant, which may be a network with bits of a host.
    fn destination(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
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
    let is_relay = |grant: &&CapGrant| {
        grant.cap_map.contains_key(CAP_RELAY) || grant.caps.iter().any(|c| c == CAP_RELAY)
    };
    let of_rule = |rule: &FilterRule| -> Vec<RelayRule> {
        let sources = |rule: &FilterRule| {
            let sources = rule.src_ips.iter();
            sources.filter_map(|t| AddressSet::source(t)).collect()
        };
        let destinations = |grant: &CapGrant| {
            let destinations = grant.dsts.iter();
            destinations
                .filter_map(|t| AddressSet::destination(t))
                .collect()
        };
        let grants = rule.cap_grant.iter().filter(is_relay);
        let rule = |grant: &CapGrant| RelayRule {
            sources: sources(rule),
            destinations: destinations(grant),
        };
        grants.map(rule).collect()
    };
    rules.iter().flat_map(of_rule).collect()
}
