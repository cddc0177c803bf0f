//! Choice of nodes for regions with a limited number of relays. Regions share the total, relays
//! spread over zones, and as few relays as possible move.

mod filling;

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use self::filling::Filling;

/// A node that fits a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Name of the node.
    pub(super) name: String,
    /// Zone of the node.
    pub(super) zone: String,
    /// True if a new relay may run on the node. A running relay may stay in any case.
    pub(super) open: bool,
}

/// The request of a region for nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// Name of the region within the cluster. The preference for nodes depends on it.
    pub(super) key: String,
    /// Nodes that fit the region.
    pub(super) candidates: Vec<Candidate>,
    /// Nodes that have a relay of the region now, whether they fit or not.
    pub(super) running: BTreeSet<String>,
    /// Maximum number of relays of the region.
    pub(super) most: usize,
    /// Number of relays above which the region gets no further node. Running relays stay.
    pub(super) cap: usize,
    /// True if two regions cannot have relays on one node, because both take the same ports of it.
    pub(super) exclusive: bool,
}

/// The nodes that a region gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Nodes that keep their relay.
    pub(super) stay: Vec<String>,
    /// Nodes that get a relay, the most preferred first.
    pub(super) start: Vec<String>,
    /// Nodes that get a relay when the relay of another region on them has ended.
    pub(super) awaited: Vec<String>,
    /// Nodes that get no relay because the total is used up.
    pub(super) excess: Vec<String>,
}

/// Chooses nodes for all regions of a PeerRelay, `allowance` relays in total.
///
/// - A running relay stays for as long as its node fits and the region's own limit allows it, also
///   beyond the allowance.
/// - Every further relay goes to the region with the fewest, the first of equals. The region takes
///   it in its zone with the fewest, there on the node of the highest score (rendezvous hashing), so
///   that the choice is the same after a restart, and a node that comes or goes moves no other.
///   Relays that have not been started give way to other regions if they have another node.
/// - A region that has no relay at all, such as one that was added later, gets its share from regions
///   that have at least two more.
pub(super) fn choose(requests: &[Request], allowance: usize) -> Vec<Choice> {
    let mut filling = Filling::new(requests);
    filling.fill(allowance);
    // A region that gave up a node may get a different one.
    while filling.hand_over(allowance) {
        filling.fill(allowance);
    }
    filling.into_choices()
}

/// The preference of `key` for `name`.
fn score(key: &str, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(key);
    // No name has this byte, so no other key and name give the same text.
    hash.update([0]);
    hash.update(name);
    let bytes: [u8; 8] = hash.finalize()[..8].try_into().expect("a digest is longer");
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests;
