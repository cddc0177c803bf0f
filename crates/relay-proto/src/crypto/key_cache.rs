//! A bounded cache of boxes shared with clients.
//!
//! One X25519 agreement costs more than all else that a control message needs. The cache saves it
//! for clients that were heard within the last second, has a fixed limit, and is empty once all
//! clients are quiet: a bound session costs no memory here.

use std::{collections::HashMap, mem, time::Duration};

use crate::{
    crypto::{
        agreement::{Agreement, SharedBox},
        key::{DiscoPublic, DiscoSecret},
    },
    time::Timestamp,
};

/// A box lives this long after its last use, and at most twice that: long enough for a round trip
/// and for the next pairs of a client that has many.
pub(crate) const BOX_LIFETIME: Duration = Duration::from_millis(500);
/// The number of boxes from which freeing the cache is reported: fewer fill less than two pages,
/// which the allocator soon uses again.
const REPORTED_BOXES: usize = 64;

/// A cache of the boxes between one secret and its clients, in two generations.
///
/// The young generation becomes the old one when it is full or [`BOX_LIFETIME`] has passed. Boxes of the
/// old one that nobody has used since are dropped.
pub(crate) struct SharedKeyCache {
    public: DiscoPublic,
    agreement: Agreement,
    capacity: usize,
    young: HashMap<DiscoPublic, SharedBox>,
    old: HashMap<DiscoPublic, SharedBox>,
    /// End of the young generation's time; `None` while the cache is empty.
    next_generation: Option<Timestamp>,
    /// The cache has held [`REPORTED_BOXES`] boxes since it was last empty.
    was_large: bool,
}

impl SharedKeyCache {
    /// Creates an empty cache with room for `capacity` boxes in each of two generations.
    ///
    /// Seven eighths of a power of two fill the hash tables without waste.
    pub(crate) fn new(secret: &DiscoSecret, capacity: usize) -> Self {
        Self {
            public: secret.public(),
            agreement: Agreement::new(secret),
            capacity,
            young: HashMap::new(),
            old: HashMap::new(),
            next_generation: None,
            was_large: false,
        }
    }

    /// Public half of the cache's own key.
    pub(crate) const fn public(&self) -> DiscoPublic {
        self.public
    }

    /// The box with `client`, computed on a miss.
    pub(crate) fn shared_with(&mut self, client: DiscoPublic, now: Timestamp) -> &SharedBox {
        if !self.young.contains_key(&client) {
            let cached = self.old.remove(&client);
            let shared = cached.unwrap_or_else(|| self.agreement.with(client));
            if self.young.len() == self.capacity {
                self.old = mem::take(&mut self.young);
            }
            self.next_generation.get_or_insert(now + BOX_LIFETIME);
            self.young.insert(client, shared);
            self.was_large |= self.young.len() >= REPORTED_BOXES;
        }
        &self.young[&client]
    }

    /// The time at which [`SharedKeyCache::forget`] has something to do.
    pub(crate) const fn poll_forget(&self) -> Option<Timestamp> {
        self.next_generation
    }

    /// Drops boxes that are too old, and their tables. Returns whether a large cache became empty.
    pub(crate) fn forget(&mut self, now: Timestamp) -> bool {
        if self.next_generation.is_none_or(|due| due > now) {
            return false;
        }
        self.old = mem::take(&mut self.young);
        let empty = self.old.is_empty();
        self.next_generation = (!empty).then(|| now + BOX_LIFETIME);
        empty && mem::take(&mut self.was_large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::START;

    fn cache(capacity: usize) -> SharedKeyCache {
        SharedKeyCache::new(&DiscoSecret::from_bytes([5; 32]), capacity)
    }

    fn key(n: u8) -> DiscoPublic {
        DiscoPublic([n; 32])
    }

    #[test]
    fn kept_boxes_are_bounded_and_those_in_use_stay() {
        let mut cache = cache(4);
        for n in 1..40 {
            cache.shared_with(key(n), START);
            cache.shared_with(key(0), START);
            assert!(cache.young.len() <= 4 && cache.old.len() <= 4);
            assert!(cache.young.contains_key(&key(0)));
        }
        assert!(!cache.old.contains_key(&key(1)));
    }

    #[test]
    fn box_in_use_stays_and_another_is_gone_after_twice_its_time() {
        let mut cache = cache(4);
        cache.shared_with(key(1), START);
        let mut now = START;
        for _ in 0..8 {
            now = now + BOX_LIFETIME / 4;
            cache.shared_with(key(2), now);
            cache.forget(now);
            let has = |n| cache.young.contains_key(&key(n)) || cache.old.contains_key(&key(n));
            assert!(has(2));
            assert_eq!(has(1), now < START + 2 * BOX_LIFETIME, "{now:?}");
        }
    }

    #[test]
    fn quiet_time_leaves_no_memory_and_no_timer() {
        let mut cache = cache(200);
        assert_eq!(cache.poll_forget(), None);
        let mut now = START;
        // Freeing a small cache is not reported.
        for (count, many) in [(200, true), (10, false), (100, true)] {
            for n in 0..count {
                cache.shared_with(key(n), now);
            }
            let mut last = Vec::new();
            while let Some(due) = cache.poll_forget() {
                assert!(!cache.forget(now), "{due:?} has not come");
                assert_eq!(cache.poll_forget(), Some(due));
                now = due;
                last.push(cache.forget(now));
            }
            assert_eq!(last, [false, many]);
            assert_eq!(cache.young.capacity() + cache.old.capacity(), 0);
        }
    }
}
