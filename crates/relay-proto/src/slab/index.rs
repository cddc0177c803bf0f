//! Slots by the hash of their values. Keys stay in the slots, so an entry takes four bytes.

use hashbrown::HashTable;

use crate::slab::Slot;

/// Number of tables, which grow independently: one datagram never waits for the growth of all.
const PARTS: usize = 64;

/// A hash index of slots.
#[derive(Debug)]
pub(crate) struct Index([HashTable<Slot>; PARTS]);

impl Default for Index {
    fn default() -> Self {
        Self(std::array::from_fn(|_| HashTable::new()))
    }
}

impl Index {
    /// The slot with this hash for which `is` returns true.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is: impl Fn(Slot) -> bool) -> Option<Slot> {
        self.0[part(hash)].find(hash, |slot| is(*slot)).copied()
    }

    /// Inserts a slot that is not in the index; `hash_of` gives the hashes of those that are.
    pub(crate) fn insert(&mut self, hash: u64, slot: Slot, hash_of: impl Fn(Slot) -> u64) {
        self.0[part(hash)].insert_unique(hash, slot, |slot| hash_of(*slot));
    }

    /// Removes `slot`, whose key has this hash.
    pub(crate) fn remove(&mut self, hash: u64, slot: Slot) {
        let entry = self.0[part(hash)].find_entry(hash, |other| *other == slot);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}

/// The table of a hash. The tables themselves use the lowest and the highest bits.
#[inline]
const fn part(hash: u64) -> usize {
    (hash >> 40) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_by_their_values_however_many_hashes_collide() {
        for spread in [1, 1 << 40, 0x9e37_79b9_7f4a_7c15] {
            let hash = |slot: Slot| u64::from(slot / 3).wrapping_mul(spread);
            let mut index = Index::default();
            for slot in 0..3000 {
                index.insert(hash(slot), slot, hash);
                // Removing a slot that is not there changes nothing.
                index.remove(hash(slot), 3000);
            }
            for slot in (0..3000).step_by(2) {
                index.remove(hash(slot), slot);
                index.remove(hash(slot), slot);
            }
            for slot in 0..3000 {
                let found = index.find(hash(slot), |other| other == slot);
                assert_eq!(found, (slot % 2 == 1).then_some(slot));
            }
        }
    }
}
