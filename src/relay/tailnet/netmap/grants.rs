//! Clients that the packet filter lets use this relay.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;

use super::{
    Netmap, Node,
    filter::{AddressSet, RelayRule},
};
use crate::{grants::is_everyone, relay::grant::GrantView};

/// A range of at least as many IPv4 addresses is everyone: control writes all of the tailnet as
/// two ranges, around the addresses that it gives to nobody.
const WIDE_RANGE: u32 = 1 << 21;

impl Netmap {
    /// Counts the peers that may use this relay, and the rules that say so. `now` is this host's
    /// time.
    pub(crate) fn grant(&self, now: Timestamp) -> GrantView {
        let now = self.clock.now(now);
        let rules = || self.own.iter().flat_map(|own| self.rules_for(own));
        let mut view = GrantView {
            rules: rules().count(),
            known_peers: self.peers.len(),
            everyone: rules().any(|rule| rule.sources.iter().any(AddressSet::is_everyone)),
            ..GrantView::default()
        };
        let granted = self.peers.values().filter(|peer| self.may_relay(peer, now));
        granted.for_each(|peer| view.count(&peer.tags));
        view
    }

    fn rules_for(&self, own: &Node) -> impl Iterator<Item = &RelayRule> {
        let ips: Vec<_> = own.ips().collect();
        let is_own = move |rule: &&RelayRule| {
            let mut sets = rule.destinations.iter();
            sets.any(|set| ips.iter().any(|ip| set.holds(*ip)))
        };
        self.filters.rules().filter(is_own)
    }
}

impl AddressSet {
    fn is_everyone(&self) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => is_everyone(*net),
            Self::Range(IpAddr::V4(first), IpAddr::V4(last)) => {
                u32::from(*last).saturating_sub(u32::from(*first)) >= WIDE_RANGE
            }
            Self::Range(..) => false,
        }
    }
}
