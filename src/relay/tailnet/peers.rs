//! The peers of the tailnet, in a table that needs about 200 bytes for each.

mod peer;
mod tag_sets;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

use hashbrown::HashTable;
use k8s_openapi::jiff::Timestamp;
use relay_proto::NodeKey;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use self::tag_sets::TagSets;
pub(crate) use self::{
    peer::{Expiry, Peer, PeerChange},
    tag_sets::TagSet,
};

/// Most peers that are kept. A control server could let the memory of the relay grow without end.
pub(crate) const MOST_PEERS: usize = 1_000_000;

/// The peers of the tailnet, found by id and by node key.
///
/// As a list in JSON it is read peer by peer: no peer is kept in a larger form.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    slots: Vec<Option<Peer>>,
    free: Vec<u32>,
    by_id: HashTable<u32>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    tag_sets: TagSets,
    /// No key expires earlier, except those that had expired when it was set.
    first_expiry: Expiry,
    refused: usize,
}

impl Peers {
    /// Number of peers.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Number of peers that were refused because there are [`MOST_PEERS`].
    pub(crate) const fn refused(&self) -> usize {
        self.refused
    }

    /// Returns all peers, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    /// The peer with this node key.
    pub(crate) fn by_key(&self, key: NodeKey) -> Option<&Peer> {
        let hash = self.hasher.hash_one(key);
        let slot = self.by_key.find(hash, |slot| self.has_key(*slot, key))?;
        self.slots[*slot as usize].as_ref()
    }

    /// The peer with this id.
    pub(crate) fn by_id(&self, id: i64) -> Option<&Peer> {
        self.slots[self.slot(id)? as usize].as_ref()
    }

    /// Enters a peer, and returns the one with its id that it replaces. `now` is the control server's
    /// time.
    pub(crate) fn insert(&mut self, mut peer: Peer, now: Option<Timestamp>) -> Option<Peer> {
        let previous = self.remove(peer.id);
        if self.len() >= MOST_PEERS {
            self.refused += 1;
            return previous;
        }
        peer.tags = peer.tags.map(|tags| self.tag_sets.intern(tags));
        // A key that has expired changes no more by time.
        if !peer.expiry.is_over(now) {
            self.first_expiry = self.first_expiry.min(peer.expiry);
        }
        let (id, key) = (peer.id, peer.key);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize] = Some(peer);
        let Self { slots, hasher, .. } = self;
        let of = |slot: &u32| slots[*slot as usize].as_ref().expect("it is indexed");
        let hash = hasher.hash_one(id);
        self.by_id
            .insert_unique(hash, slot, |slot| hasher.hash_one(of(slot).id));
        if let Some(key) = key {
            let hash = hasher.hash_one(key);
            // Of two peers with one key, the last counts.
            let same = |slot: &u32| of(slot).key == Some(key);
            if let Ok(entry) = self.by_key.find_entry(hash, same) {
                entry.remove();
            }
            let rehash = |slot: &u32| hasher.hash_one(of(slot).key.expect("it is indexed"));
            self.by_key.insert_unique(hash, slot, rehash);
        }
        previous
    }

    /// Removes the peer with this id.
    pub(crate) fn remove(&mut self, id: i64) -> Option<Peer> {
        let slot = self.slot(id)?;
        let hash = self.hasher.hash_one(id);
        if let Ok(entry) = self.by_id.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        let peer = self.slots[slot as usize].take()?;
        if let Some(key) = peer.key {
            let hash = self.hasher.hash_one(key);
            if let Ok(entry) = self.by_key.find_entry(hash, |other| *other == slot) {
                entry.remove();
            }
        }
        self.free.push(slot);
        Some(peer)
    }

    /// Time before which no key expires that has not expired yet.
    pub(crate) const fn first_expiry(&self) -> Expiry {
        self.first_expiry
    }

    /// Finds the first expiry after `now`. It looks at all peers.
    pub(crate) fn expiry_after(&self, now: Timestamp) -> Expiry {
        let expiries = self.iter().filter(|peer| !peer.expired);
        let expiries = expiries.map(|peer| peer.expiry);
        let later = expiries.filter(|expiry| !expiry.is_over(Some(now)));
        later.min().unwrap_or_default()
    }

    /// Replaces the bound by what [`Peers::expiry_after`] has found.
    pub(crate) const fn set_first_expiry(&mut self, expiry: Expiry) {
        self.first_expiry = expiry;
    }

    fn slot(&self, id: i64) -> Option<u32> {
        let is = |slot: &u32| {
            let peer = self.slots[*slot as usize].as_ref();
            peer.is_some_and(|peer| peer.id == id)
        };
        self.by_id.find(self.hasher.hash_one(id), is).copied()
    }

    fn has_key(&self, slot: u32, key: NodeKey) -> bool {
        let peer = self.slots[slot as usize].as_ref();
        peer.is_some_and(|peer| peer.key == Some(key))
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Peers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of peers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Peers, A::Error> {
                let mut peers = Peers::default();
                while let Some(peer) = list.next_element()? {
                    peers.insert(peer, None);
                }
                peers.slots.shrink_to_fit();
                Ok(peers)
            }
        }

        deserializer.deserialize_seq(List)
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests;
