//! Relays that probe each other's addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use kube::ResourceExt;

use crate::{
    config::peers::{MOST_TRIED, ProbePeer},
    crd::RelayNode,
    operator::{
        probes::ProbeResults,
        validate::{ValidRegion, ValidSpec},
    },
};

/// Maximum number of relays in a list, because the size of a ConfigMap is limited. Further relays
/// are not probed.
const MOST_PEERS: usize = 1_000;

/// Assigns to each region of `relay` the relays that its relays probe, and the relays that probe
/// them. With a list of all relays, each change of one relay would change the list of every other.
pub(super) fn assign(relay: &ValidSpec, nodes: &[Arc<RelayNode>]) -> Vec<Vec<ProbePeer>> {
    let all = peers(nodes);
    let regions: BTreeMap<String, &str> = nodes
        .iter()
        .map(|node| (node.name_any(), &*node.spec.region))
        .collect();
    let around_region = |region: &ValidRegion| {
        around(&all, |peer| {
            regions.get(&peer.relay) == Some(&&*region.name)
        })
    };
    relay.regions.iter().map(around_region).collect()
}

/// Returns the relays of `all` that are at most [`MOST_TRIED`] places from a relay that is `own`.
/// The order is circular.
fn around(all: &[ProbePeer], own: impl Fn(&ProbePeer) -> bool) -> Vec<ProbePeer> {
    let (count, mut wanted) = (all.len(), BTreeSet::new());
    let reach = MOST_TRIED.min(count.saturating_sub(1));
    for at in (0..count).filter(|at| own(&all[*at])) {
        wanted.extend((count + at - reach..=count + at + reach).map(|place| place % count));
    }
    wanted.into_iter().map(|at| all[at].clone()).collect()
}

/// Returns the relays of a PeerRelay that can be probed, in a stable order.
fn peers(nodes: &[Arc<RelayNode>]) -> Vec<ProbePeer> {
    let results = ProbeResults::new(nodes);
    let peer = |node: &RelayNode| {
        let status = node.status.as_ref()?;
        Some(ProbePeer {
            relay: node.name_any(),
            key: status.probe_key.clone()?,
            endpoints: addresses(node).collect(),
            withheld: results.withheld(node),
        })
    };
    let nodes = nodes.iter().map(AsRef::as_ref);
    let going = |node: &&RelayNode| node.metadata.deletion_timestamp.is_none();
    let mut peers: Vec<_> = nodes.filter(going).filter_map(peer).collect();
    peers.sort_by(|a, b| a.relay.cmp(&b.relay));
    peers.truncate(MOST_PEERS);
    peers
}

fn addresses(node: &RelayNode) -> impl Iterator<Item = SocketAddr> {
    let endpoints = node.status.iter().flat_map(|status| &status.endpoints);
    endpoints.filter_map(|endpoint| endpoint.address.parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::operator::probes::tests::{node, probe};

    #[test]
    fn a_region_knows_the_relays_that_its_own_try_and_that_try_them() {
        let all: Vec<_> = (0..100)
            .map(|at| node(&format!("r{at:02}"), &[], &[]))
            .collect();
        let all = super::peers(&all);
        let names = |own: &[&str]| -> Vec<String> {
            let peers = around(&all, |peer| own.contains(&&*peer.relay));
            peers.into_iter().map(|peer| peer.relay).collect()
        };
        assert!(names(&[]).is_empty());
        let first = names(&["r00"]);
        assert_eq!(first.len(), 2 * MOST_TRIED + 1);
        assert_eq!(
            (&*first[0], &*first[16], &*first[17], &*first[32]),
            ("r00", "r16", "r84", "r99")
        );
        assert_eq!(names(&["r50", "r51"]).len(), 2 * MOST_TRIED + 2);
        let few = &all[..3];
        assert_eq!(around(few, |peer| peer.relay == "r01").len(), 3);
        assert_eq!(around(&all[..1], |_| true).len(), 1);
    }

    #[test]
    fn peers_are_those_with_a_key_in_the_order_of_their_names() {
        let b = node("b", &[("192.0.2.1:40000", "Interface")], &[]);
        let mut silent = (*node("c", &[], &[])).clone();
        silent.status.as_mut().unwrap().probe_key = None;
        let a = node("a", &[], &[]);
        let peers = peers(&[b, Arc::new(silent), a]);
        let names: Vec<_> = peers
            .iter()
            .map(|p| (&*p.relay, p.endpoints.len()))
            .collect();
        assert_eq!(names, [("a", 0), ("b", 1)]);
    }

    #[test]
    fn an_address_that_fails_is_withheld_and_still_probed() {
        let (old, new) = ("192.0.2.1:40000", "192.0.2.2:40000");
        let a = node("a", &[(old, "Interface"), (new, "Interface")], &[]);
        let seen = [probe("a", old, None), probe("a", new, Some(1))];
        let peers = peers(&[a, node("b", &[], &seen)]);
        assert_eq!(peers[0].endpoints.len(), 2);
        assert_eq!(peers[0].withheld, [old.parse().unwrap()]);
        assert!(peers[1].withheld.is_empty());
    }
}
