//! The sessions and their indexes: by VNI, by pair, and by who must give way at a limit.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use rand_chacha::{ChaCha20Rng, rand_core::RngCore};

use crate::{
    geneve::Vni,
    key::{NodeKey, Pair},
    lane::Lane,
    session::Session,
    time::Timestamp,
};

/// A freed VNI is not drawn again for this long, so that late packets of the old session cannot
/// meet a new one.
const VNI_REST: Duration = Duration::from_secs(60);

/// VNIs are drawn by us at random, so multiplying spreads them well enough.
#[derive(Default)]
pub(crate) struct VniHasher(u64);

impl Hasher for VniHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Order of allocation, with the session's VNI.
type Allocated = (u64, Vni);

#[derive(Debug, Default)]
struct NodeUse {
    sessions: usize,
    unbound: BTreeSet<Allocated>,
}

/// All sessions of a relay.
#[derive(Default)]
pub(crate) struct Table {
    by_vni: HashMap<Vni, Session, BuildHasherDefault<VniHasher>>,
    by_pair: BTreeMap<Pair, Vni>,
    unbound: BTreeSet<Allocated>,
    nodes: BTreeMap<NodeKey, NodeUse>,
    resting: BTreeSet<Vni>,
    resting_until: VecDeque<(Timestamp, Vni)>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.by_vni.len()
    }

    /// Sessions without both legs bound.
    pub(crate) fn unbound(&self) -> usize {
        self.unbound.len()
    }

    /// Who has asked for sessions that exist.
    pub(crate) fn owners(&self) -> impl Iterator<Item = NodeKey> {
        self.nodes.keys().copied()
    }

    pub(crate) fn get_mut(&mut self, vni: Vni) -> Option<&mut Session> {
        self.by_vni.get_mut(&vni)
    }

    pub(crate) fn of_pair(&self, pair: &Pair) -> Option<&Session> {
        self.by_vni.get(self.by_pair.get(pair)?)
    }

    /// Every session, ordered by pair.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.by_pair.values().filter_map(|vni| self.by_vni.get(vni))
    }

    /// The unbound session that was allocated first, of `owner` or of all.
    pub(crate) fn oldest_unbound(&self, owner: Option<NodeKey>) -> Option<Vni> {
        let unbound = match owner {
            Some(owner) => &self.nodes.get(&owner)?.unbound,
            None => &self.unbound,
        };
        unbound.first().map(|(_, vni)| *vni)
    }

    /// A random VNI of `lane` that is neither in use nor resting. The caller keeps the number of
    /// sessions far below the number of VNIs.
    pub(crate) fn draw_vni(&mut self, lane: Lane, rng: &mut ChaCha20Rng, now: Timestamp) -> Vni {
        while let Some((_, vni)) = self.resting_until.pop_front_if(|(until, _)| *until <= now) {
            self.resting.remove(&vni);
        }
        loop {
            if let Some(vni) = lane.vni(rng.next_u32())
                && !self.by_vni.contains_key(&vni)
                && !self.resting.contains(&vni)
            {
                return vni;
            }
        }
    }

    pub(crate) fn insert(&mut self, session: Session) {
        let allocated = (session.lamport, session.vni);
        let node = self.nodes.entry(session.owner).or_default();
        node.sessions += 1;
        node.unbound.insert(allocated);
        self.unbound.insert(allocated);
        self.by_pair.insert(session.pair, session.vni);
        self.by_vni.insert(session.vni, session);
    }

    /// Whether a session has this VNI.
    pub(crate) fn has(&self, vni: Vni) -> bool {
        self.by_vni.contains_key(&vni)
    }

    /// Takes an open session out of the lists of those that must give way.
    pub(crate) fn mark_open(&mut self, vni: Vni) {
        let Some(session) = self.by_vni.get(&vni) else {
            return;
        };
        let allocated = (session.lamport, vni);
        self.unbound.remove(&allocated);
        if let Some(node) = self.nodes.get_mut(&session.owner) {
            node.unbound.remove(&allocated);
        }
    }

    pub(crate) fn remove(&mut self, vni: Vni, now: Timestamp) -> Option<Session> {
        self.mark_open(vni);
        let session = self.by_vni.remove(&vni)?;
        self.by_pair.remove(&session.pair);
        if let Some(node) = self.nodes.get_mut(&session.owner) {
            node.sessions -= 1;
            if node.sessions == 0 {
                self.nodes.remove(&session.owner);
            }
        }
        self.rest(vni, now);
        Some(session)
    }

    /// Memory for resting VNIs is bounded by the number of sessions: the oldest go first.
    fn rest(&mut self, vni: Vni, now: Timestamp) {
        const MOST: usize = 1 << 16;
        if self.resting_until.len() == MOST
            && let Some((_, oldest)) = self.resting_until.pop_front()
        {
            self.resting.remove(&oldest);
        }
        self.resting.insert(vni);
        self.resting_until.push_back((now + VNI_REST, vni));
    }
}
