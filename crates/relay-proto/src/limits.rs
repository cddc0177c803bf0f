//! Limits that hold over all cores of a relay, and the counts that they need.
//!
//! Cores ask when a session is made or ends. Datagrams only touch the bandwidth limit of the whole
//! relay, which is one atomic number.

pub(crate) mod bandwidth;
pub(crate) mod rate;
pub(crate) mod requests;
mod tags;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use self::{bandwidth::RelayBandwidth, tags::Tags};
use crate::{
    config::Config,
    crypto::key::NodeKey,
    shared_path::{SharedTat, SharedVnis, vni_filter::VniFilter},
    slab::{Slab, Slot, index::Index},
    time::Timestamp,
    verdict::DropReason,
};

/// A node that has sessions; valid for as long as it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner(Slot);

/// The limits of a relay and the order of its allocations, shared by all of its cores.
///
/// `P` is another data path that shares memory with the cores; `()` for none.
#[derive(Debug)]
pub struct SharedLimits<P = ()> {
    next_lamport: AtomicU64,
    max_sessions: usize,
    max_sessions_per_node: usize,
    max_sessions_per_tag: Option<usize>,
    bandwidth: RelayBandwidth,
    path: P,
    usage: Mutex<Usage>,
}

/// Session counts by node and by tag.
#[derive(Debug, Default)]
struct Usage {
    total: usize,
    nodes: Slab<Node>,
    by_key: Index,
    hasher: RandomState,
    tags: Tags,
}

#[derive(Debug)]
struct Node {
    key: NodeKey,
    sessions: u32,
}

impl SharedLimits {
    /// The limits of `config` for a relay without sessions and without another data path.
    ///
    /// `first_lamport` must be greater than any LamportID that the relay's server key has given out
    /// before.
    pub fn new(config: &Config, first_lamport: u64) -> Self {
        Self::with_path(config, first_lamport, ())
    }
}

impl<P: SharedTat + SharedVnis> SharedLimits<P> {
    /// As [`SharedLimits::new`], with memory that another data path shares. VNIs that it has from an
    /// earlier relay are cleared.
    pub fn with_path(config: &Config, first_lamport: u64, path: P) -> Self {
        let limits = Self {
            next_lamport: AtomicU64::new(first_lamport),
            max_sessions: config.max_sessions.min(Config::MOST_SESSIONS),
            max_sessions_per_node: config.max_sessions_per_node,
            max_sessions_per_tag: config.max_sessions_per_tag,
            bandwidth: RelayBandwidth::new(config.max_bytes_per_second),
            path,
            usage: Mutex::default(),
        };
        if let Some(filter) = limits.vni_filter() {
            filter.clear();
        }
        limits
    }

    /// The other data path's filter of VNIs, if it has one.
    pub(crate) fn vni_filter(&self) -> Option<VniFilter<'_>> {
        self.path.shared_vnis().map(VniFilter::new)
    }

    /// Admits `bytes` of data under the relay's bandwidth limit.
    pub(crate) fn admit_bytes(&self, bytes: u64, now: Timestamp) -> Result<(), DropReason> {
        self.bandwidth.admit(&self.path, bytes, now)
    }
}

impl<P> SharedLimits<P> {
    /// The LamportID of the next allocation.
    pub fn next_lamport(&self) -> u64 {
        self.next_lamport.load(Ordering::Relaxed)
    }

    /// Takes the LamportID of a new allocation.
    pub(crate) fn take_lamport(&self) -> u64 {
        // Relaxed: the number stands for itself, and additions of cores never yield one number twice.
        self.next_lamport.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one more session of `node`, if the limits allow it.
    pub(crate) fn enter(&self, node: NodeKey) -> Result<Owner, DropReason> {
        let mut usage = self.usage();
        let slot = usage.find(node);
        let counted = slot.and_then(|slot| usage.nodes.get(slot));
        // The narrowest limit comes first: the reason names whose unbound session gives way.
        if counted.map_or(0, |node| node.sessions as usize) >= self.max_sessions_per_node {
            return Err(DropReason::NodeLimit);
        }
        if let Some(limit) = self.max_sessions_per_tag
            && usage.tags.full(node, limit).next().is_some()
        {
            return Err(DropReason::TagLimit);
        }
        if usage.total >= self.max_sessions {
            return Err(DropReason::SessionLimit);
        }
        usage.total += 1;
        let slot = slot.unwrap_or_else(|| usage.insert(node));
        usage.tags.enter(node, slot);
        let node = usage.nodes.get_mut(slot).expect("it was found or inserted");
        node.sessions += 1;
        Ok(Owner(slot))
    }

    /// Undoes one [`SharedLimits::enter`].
    pub(crate) fn leave(&self, owner: Owner) {
        let mut usage = self.usage();
        usage.total -= 1;
        let Some(node) = usage.nodes.get_mut(owner.0) else {
            return;
        };
        node.sessions -= 1;
        let (key, last) = (node.key, node.sessions == 0);
        usage.tags.leave(key, owner.0, last);
        if last {
            usage.remove(owner.0);
        }
    }

    /// Returns whether tags have a limit; without one, [`SharedLimits::set_tags`] has no effect.
    pub const fn limits_tags(&self) -> bool {
        self.max_sessions_per_tag.is_some()
    }

    /// Replaces the tags of all nodes and counts their sessions anew. The caller numbers the tags.
    ///
    /// No session ends: those above a limit only keep new ones out.
    pub fn set_tags(&self, tags: BTreeMap<NodeKey, Vec<u32>>) {
        let usage = &mut *self.usage();
        let open = usage.nodes.iter();
        let open = open.map(|(slot, node)| (node.key, slot, node.sessions as usize));
        usage.tags.set(tags, open);
    }

    /// Replaces the tags of these nodes; an empty list removes those of a node.
    pub fn change_tags(&self, tags: impl IntoIterator<Item = (NodeKey, Vec<u32>)>) {
        let usage = &mut *self.usage();
        for (key, tags) in tags {
            let slot = usage.find(key);
            let node = slot.and_then(|slot| Some((slot, usage.nodes.get(slot)?.sessions as usize)));
            usage.tags.change(key, tags, node);
        }
    }

    /// Nodes that have sessions.
    pub fn holders(&self) -> Vec<NodeKey> {
        let usage = self.usage();
        usage.nodes.iter().map(|(_, node)| node.key).collect()
    }

    /// Returns whether a node has sessions.
    pub fn is_holder(&self, node: NodeKey) -> bool {
        self.usage().find(node).is_some()
    }

    /// Nodes with sessions that share with `node` a tag that is at its limit, once for each such tag.
    pub(crate) fn sharing(&self, node: NodeKey) -> Vec<Owner> {
        let usage = self.usage();
        let limit = self.max_sessions_per_tag.unwrap_or(usize::MAX);
        let full = usage.tags.full(node, limit);
        full.flat_map(|tag| usage.tags.nodes(tag))
            .map(Owner)
            .collect()
    }

    /// The owner that `node` is, if it has sessions.
    pub(crate) fn owner(&self, node: NodeKey) -> Option<Owner> {
        self.usage().find(node).map(Owner)
    }

    /// The node that owns a session, which must exist.
    pub(crate) fn node(&self, owner: Owner) -> NodeKey {
        let usage = self.usage();
        usage
            .nodes
            .get(owner.0)
            .expect("its session is counted")
            .key
    }

    /// The owners that these nodes are; nodes without sessions are left out.
    pub(crate) fn owners(&self, nodes: &BTreeSet<NodeKey>) -> BTreeSet<Owner> {
        let usage = self.usage();
        let slots = nodes.iter().filter_map(|node| usage.find(*node));
        slots.map(Owner).collect()
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Usage {
    fn find(&self, key: NodeKey) -> Option<Slot> {
        let is = |slot| self.nodes.get(slot).is_some_and(|node| node.key == key);
        self.by_key.find(self.hasher.hash_one(key), is)
    }

    fn insert(&mut self, key: NodeKey) -> Slot {
        let Self { nodes, hasher, .. } = self;
        let slot = nodes.insert(Node { key, sessions: 0 });
        let hash_of = |slot| nodes.get(slot).map_or(0, |node| hasher.hash_one(node.key));
        self.by_key.insert(hasher.hash_one(key), slot, hash_of);
        slot
    }

    fn remove(&mut self, slot: Slot) {
        if let Some(node) = self.nodes.remove(slot) {
            self.by_key.remove(self.hasher.hash_one(node.key), slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use bolero::{check, produce};

    use super::*;

    const MOST: usize = 3;
    const NODES: u8 = 8;

    const fn node(number: u8) -> NodeKey {
        NodeKey([number; 32])
    }

    /// The reference for [`SharedLimits::sharing`]: a scan of all nodes.
    fn scan(
        limits: &SharedLimits,
        tags: &BTreeMap<NodeKey, Vec<u32>>,
        of: NodeKey,
    ) -> BTreeSet<Owner> {
        let usage = limits.usage();
        let tags_of = |key| tags.get(&key).map_or(&[][..], Vec::as_slice);
        let sessions_of = |tag: &u32| -> usize {
            let theirs = usage
                .nodes
                .iter()
                .filter(|(_, n)| tags_of(n.key).contains(tag));
            theirs.map(|(_, node)| node.sessions as usize).sum()
        };
        let full: Vec<_> = tags_of(of)
            .iter()
            .filter(|tag| sessions_of(tag) >= MOST)
            .collect();
        let share = |key| tags_of(key).iter().any(|tag| full.contains(&tag));
        let found = usage.nodes.iter().filter(|(_, node)| share(node.key));
        found.map(|(slot, _)| Owner(slot)).collect()
    }

    #[test]
    fn nodes_that_share_a_full_tag_are_those_that_a_scan_finds() {
        let config = Config {
            max_sessions_per_tag: Some(MOST),
            ..Config::default()
        };
        let steps = produce::<Vec<(u8, u8, u8)>>().with().len(0..100_usize);
        check!().with_generator(steps).for_each(|steps| {
            let limits = SharedLimits::new(&config, 1);
            let (mut tags, mut sessions) = (BTreeMap::new(), Vec::new());
            for (what, number, more) in steps {
                let of = node(number % NODES);
                match what % 8 {
                    0 => {
                        let own: Vec<_> = (0..4).filter(|tag| more >> tag & 1 == 1).collect();
                        tags.insert(of, own.clone());
                        match what / 8 % 2 {
                            0 => limits.set_tags(tags.clone()),
                            _ => limits.change_tags([(of, own)]),
                        }
                    }
                    1..=2 if !sessions.is_empty() => {
                        let at = usize::from(*more) % sessions.len();
                        limits.leave(sessions.swap_remove(at));
                    }
                    _ => sessions.extend(limits.enter(of)),
                }
                for number in 0..NODES {
                    let found: BTreeSet<_> = limits.sharing(node(number)).into_iter().collect();
                    assert_eq!(found, scan(&limits, &tags, node(number)), "{steps:?}");
                }
            }
        });
    }
}
