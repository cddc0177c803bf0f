//! The part of the packet filter that grants the relay capability.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::relay::tailnet::{
    address_set::{AddressSet, Addresses},
    wire::{CapGrant, FilterRule},
};

/// Peer capability that lets a source allocate sessions on a relay (`tailcfg.PeerCapabilityRelay`).
pub(super) const CAP_RELAY: &str = "tailscale.com/cap/relay";
/// Name under which `MapResponse.PacketFilter` is one of the `PacketFilters`.
const BASE_FILTER: &str = "base";
/// Key in `PacketFilters` whose null value clears all that came before.
const ALL_FILTERS: &str = "*";

/// The named packet filters of one map stream. Copies share the rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(BTreeMap<String, Arc<[RelayRule]>>);

/// A filter rule that grants the relay capability.
#[derive(Debug)]
struct RelayRule {
    sources: Arc<AddressSet>,
    destinations: Vec<Addresses>,
}

/// The rules that concern this device, as requests are judged by them.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnFilter {
    /// Rules that grant the relay capability on one of its addresses.
    pub(super) rules: usize,
    /// One of them names every address of the tailnet.
    pub(super) everyone: bool,
    /// The address of each IP version that counts, and who may use the relay by it.
    granted: [Option<(IpAddr, Arc<AddressSet>)>; 2],
}

impl Filters {
    /// Takes in `MapResponse.PacketFilter` and then `MapResponse.PacketFilters`. Returns whether there
    /// was one.
    pub(super) fn apply(
        &mut self,
        base: Option<Vec<FilterRule>>,
        mut named: BTreeMap<String, Option<Vec<FilterRule>>>,
    ) -> bool {
        let changes = base.is_some() || !named.is_empty();
        if let Some(rules) = base {
            self.0.insert(BASE_FILTER.into(), relay_rules(rules));
        }
        if let Some(None) = named.remove(ALL_FILTERS) {
            self.0.clear();
        }
        for (name, rules) in named {
            match rules {
                Some(rules) => self.0.insert(name, relay_rules(rules)),
                None => self.0.remove(&name),
            };
        }
        changes
    }

    /// The rules for a device with these addresses.
    pub(super) fn compile(&self, own: impl Iterator<Item = IpAddr>) -> OwnFilter {
        let own: Vec<_> = own.collect();
        let rules = self.0.values().flat_map(|rules| rules.iter());
        let rules = rules.filter(|rule| own.iter().any(|ip| rule.is_for(*ip)));
        let rules: Vec<_> = rules.collect();
        let granted = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|is_version| {
            let first = *own.iter().find(|ip| is_version(ip))?;
            let rules = rules.iter().filter(|rule| rule.is_for(first));
            let sources = rules.map(|rule| rule.sources.clone());
            let union = |all: Arc<AddressSet>, more: Arc<AddressSet>| match all == more {
                true => all,
                false => Arc::new(all.union(&more)),
            };
            Some((first, sources.reduce(union).unwrap_or_default()))
        });
        OwnFilter {
            rules: rules.len(),
            everyone: rules.iter().any(|rule| rule.sources.is_everyone()),
            granted,
        }
    }
}

impl RelayRule {
    fn is_for(&self, destination: IpAddr) -> bool {
        self.destinations.iter().any(|to| to.holds(destination))
    }
}

impl OwnFilter {
    /// Returns whether a peer may use this device as a relay. `first` are its first address of each IP
    /// version, in its order. The first pair of addresses of the same version counts, as in Go's relay
    /// (`magicsock.nodeHasCap`).
    pub(super) fn grants(&self, first: [Option<IpAddr>; 2]) -> bool {
        let pair = first.into_iter().flatten().find_map(|source| {
            let mut granted = self.granted.iter().flatten();
            let (_, sources) = granted.find(|(own, _)| own.is_ipv4() == source.is_ipv4())?;
            Some((source, sources))
        });
        pair.is_some_and(|(source, sources)| sources.holds(source))
    }
}

fn relay_rules(rules: Vec<FilterRule>) -> Arc<[RelayRule]> {
    let is_relay = |grant: &&CapGrant| {
        grant.cap_map.contains_key(CAP_RELAY) || grant.caps.iter().any(|c| c == CAP_RELAY)
    };
    let of_rule = |rule: FilterRule| -> Vec<RelayRule> {
        let sources = Arc::new(rule.src_ips);
        let grants = rule.cap_grant.iter().filter(is_relay);
        let rule = |grant: &CapGrant| RelayRule {
            sources: sources.clone(),
            destinations: (grant.dsts.iter())
                .filter_map(|text| Addresses::parse(text))
                .collect(),
        };
        grants.map(rule).collect()
    };
    rules.into_iter().flat_map(of_rule).collect()
}
