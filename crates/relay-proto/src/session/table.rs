//! The sessions of one core and their indexes: by VNI, by pair, and by age of those that are not
//! bound.

use std::{
    collections::{BTreeSet, VecDeque},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use rand_chacha::{ChaCha20Rng, rand_core::RngCore};

use crate::{
    crypto::key::Pair,
    limits::Owner,
    session::{Session, shard::Shard},
    slab::{Slab, Slot, index::Index},
    time::Timestamp,
    wire::geneve::Vni,
};

/// A freed VNI rests this long before it is drawn again, so that late datagrams of the old session
/// cannot meet a new one.
const VNI_REST: Duration = Duration::from_secs(60);

/// The most VNIs that rest at once, at about 24 bytes each: enough while 136 sessions end in every
/// second. A node that evicts its own sessions as fast as it can ends a hundred times as many; then
/// VNIs rest for less, and only chance (24 bits) keeps one from being drawn again.
const MAX_RESTING: usize = 1 << 13;

/// A session's place in the order of allocation: its LamportID and its VNI.
pub(crate) type Allocated = (u64, Vni);

/// The sessions of one core.
#[derive(Default)]
pub(crate) struct Table {
    sessions: Slab<Session>,
    by_vni: Index,
    by_pair: Index,
    /// The hash is keyed because clients choose their keys.
    pairs: RandomState,
    unbound: BTreeSet<Allocated>,
    unbound_of: BTreeSet<(Owner, Allocated)>,
    resting: BTreeSet<Vni>,
    resting_until: VecDeque<(Timestamp, Vni)>,
}

impl Table {
    pub(crate) const fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The number of sessions that are not bound on both legs.
    pub(crate) fn unbound(&self) -> usize {
        self.unbound.len()
    }

    pub(crate) fn get(&self, vni: Vni) -> Option<&Session> {
        self.sessions.get(self.slot(vni)?)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, vni: Vni) -> Option<&mut Session> {
        self.sessions.get_mut(self.slot(vni)?)
    }

    pub(crate) fn of_pair(&self, pair: &Pair) -> Option<&Session> {
        let of = |slot| self.sessions.get(slot).filter(|s| s.pair == *pair);
        let hash = self.pairs.hash_one(pair);
        of(self.by_pair.find(hash, |slot| of(slot).is_some())?)
    }

    /// All sessions, in an order that depends on earlier calls only.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    /// The unbound session with the earliest allocation.
    pub(crate) fn oldest_unbound(&self) -> Option<Vni> {
        self.unbound.first().map(|(_, vni)| *vni)
    }

    /// The unbound session of one owner with the earliest allocation.
    pub(crate) fn oldest_unbound_of(&self, owner: Owner) -> Option<Allocated> {
        let first = Vni::new(1)?;
        let last = Vni::MAX;
        let mut unbound = self
            .unbound_of
            .range((owner, (0, first))..=(owner, (u64::MAX, last)));
        unbound.next().map(|(_, allocated)| *allocated)
    }

    /// A random VNI of `shard` that is neither in use nor resting. The caller keeps the number of
    /// sessions far below the number of VNIs.
    pub(crate) fn draw_vni(&mut self, shard: Shard, rng: &mut ChaCha20Rng, now: Timestamp) -> Vni {
        while let Some((_, vni)) = self.resting_until.pop_front_if(|(until, _)| *until <= now) {
            self.resting.remove(&vni);
        }
        loop {
            // Go counts upward (`getNextVNILocked`), and clients take any number. Random ones cannot be
            // guessed by others, and tell nobody how many sessions there are.
            if let Some(vni) = shard.vni(rng.next_u32())
                && !self.has(vni)
                && !self.resting.contains(&vni)
            {
                return vni;
            }
        }
    }

    pub(crate) fn insert(&mut self, session: Session) {
        let Self {
            sessions, pairs, ..
        } = self;
        let (vni, pair, owner) = (session.vni, session.pair, session.owner);
        let allocated = (session.lamport, vni);
        self.unbound.insert(allocated);
        self.unbound_of.insert((owner, allocated));
        let slot = sessions.insert(session);
        let of = |slot| sessions.get(slot).expect("indexes hold slots in use");
        self.by_vni
            .insert(hash(vni), slot, |slot| hash(of(slot).vni));
        self.by_pair.insert(pairs.hash_one(pair), slot, |slot| {
            pairs.hash_one(of(slot).pair)
        });
    }

    /// Returns whether a session has this VNI.
    pub(crate) fn has(&self, vni: Vni) -> bool {
        self.slot(vni).is_some()
    }

    /// Records that a session is open: it no longer gives way at a limit.
    pub(crate) fn mark_open(&mut self, vni: Vni) {
        let Some(session) = self.get(vni) else {
            return;
        };
        let (owner, allocated) = (session.owner, (session.lamport, vni));
        self.unbound.remove(&allocated);
        self.unbound_of.remove(&(owner, allocated));
    }

    pub(crate) fn remove(&mut self, vni: Vni, now: Timestamp) -> Option<Session> {
        // For its effect: the session leaves the orders of unbound ones, whether it was bound or not.
        self.mark_open(vni);
        let slot = self.slot(vni)?;
        let session = self.sessions.remove(slot)?;
        self.by_vni.remove(hash(vni), slot);
        self.by_pair.remove(self.pairs.hash_one(session.pair), slot);
        self.rest(vni, now);
        Some(session)
    }

    #[inline]
    fn slot(&self, vni: Vni) -> Option<Slot> {
        let is = |slot| self.sessions.get(slot).is_some_and(|s| s.vni == vni);
        self.by_vni.find(hash(vni), is)
    }

    /// Lets a freed VNI rest; at the limit the one that has rested longest is freed.
    fn rest(&mut self, vni: Vni, now: Timestamp) {
        if self.resting_until.len() == MAX_RESTING
            && let Some((_, oldest)) = self.resting_until.pop_front()
        {
            self.resting.remove(&oldest);
        }
        self.resting.insert(vni);
        self.resting_until.push_back((now + VNI_REST, vni));
    }
}

/// The hash of a VNI. VNIs are random but for the bits of their shard, so one multiplication spreads
/// them well enough; its high bits are mixed into the low ones, which the tables use.
#[inline]
fn hash(vni: Vni) -> u64 {
    let product = u64::from(vni.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storm_of_sessions_leaves_little_memory() {
        let mut table = Table::default();
        for number in 1..300_000 {
            let vni = Vni::new(number).expect("not zero");
            table.rest(vni, Timestamp::START);
        }
        assert_eq!(table.resting.len(), MAX_RESTING);
        let queue = table.resting_until.capacity() * size_of::<(Timestamp, Vni)>();
        assert!(queue <= 1 << 18, "{queue} bytes");
    }
}
