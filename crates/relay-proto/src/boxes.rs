//! Boxes shared with clients that were heard lately: one X25519 for all that a client does in a
//! short time, a bound on memory whatever their number, and none for those that have gone quiet.

use std::{collections::HashMap, mem, time::Duration};

use crate::{
    agreement::{Agreement, SharedBox},
    key::{DiscoPublic, DiscoSecret},
    time::Timestamp,
};

/// A box is there for this long after it was last asked for, unless there are too many, and for no
/// longer than twice that: a round trip, and the next pairs of a client that has many.
pub(crate) const KEPT: Duration = Duration::from_millis(500);
/// Fewer take less than a page or two, which are soon in use again.
const MANY: usize = 64;

/// When the young generation is full, or its time is over, it becomes the old one, and what nobody
/// has asked for since goes.
pub(crate) struct Boxes {
    own: Agreement,
    most: usize,
    young: HashMap<DiscoPublic, SharedBox>,
    old: HashMap<DiscoPublic, SharedBox>,
    /// When the young generation's time is over; `None` while there is no box.
    turn: Option<Timestamp>,
    /// There have been many since there was none.
    many: bool,
}

impl Boxes {
    /// Boxes with the holder of `secret`; at most this many in each of two generations. Seven
    /// eighths of a power of two leave no room of the tables unused.
    pub(crate) fn new(secret: &DiscoSecret, most: usize) -> Self {
        Self {
            own: Agreement::new(secret),
            most,
            young: HashMap::new(),
            old: HashMap::new(),
            turn: None,
            many: false,
        }
    }

    /// The box with `client`.
    pub(crate) fn with(&mut self, client: DiscoPublic, now: Timestamp) -> &SharedBox {
        if !self.young.contains_key(&client) {
            let known = self.old.remove(&client);
            let shared = known.unwrap_or_else(|| self.own.with(client));
            if self.young.len() == self.most {
                self.old = mem::take(&mut self.young);
            }
            self.turn.get_or_insert(now + KEPT);
            self.young.insert(client, shared);
            self.many |= self.young.len() >= MANY;
        }
        &self.young[&client]
    }

    /// When [`Boxes::forget`] wants to be called.
    pub(crate) const fn poll_forget(&self) -> Option<Timestamp> {
        self.turn
    }

    /// Lets go of boxes whose time is over, and of their tables; whether these were the last of
    /// many.
    pub(crate) fn forget(&mut self, now: Timestamp) -> bool {
        if self.turn.is_none_or(|turn| turn > now) {
            return false;
        }
        self.old = mem::take(&mut self.young);
        let empty = self.old.is_empty();
        self.turn = (!empty).then(|| now + KEPT);
        empty && mem::take(&mut self.many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::START;

    fn boxes(most: usize) -> Boxes {
        Boxes::new(&DiscoSecret::from_bytes([5; 32]), most)
    }

    fn key(n: u8) -> DiscoPublic {
        DiscoPublic([n; 32])
    }

    #[test]
    fn kept_boxes_are_bounded_and_those_in_use_stay() {
        let mut boxes = boxes(4);
        for n in 1..40 {
            boxes.with(key(n), START);
            boxes.with(key(0), START);
            assert!(boxes.young.len() <= 4 && boxes.old.len() <= 4);
            assert!(boxes.young.contains_key(&key(0)));
        }
        assert!(!boxes.old.contains_key(&key(1)));
    }

    #[test]
    fn box_that_is_asked_for_stays_and_another_is_gone_after_twice_its_time() {
        let mut boxes = boxes(4);
        boxes.with(key(1), START);
        let mut now = START;
        for _ in 0..8 {
            now = now + KEPT / 4;
            boxes.with(key(2), now);
            boxes.forget(now);
            let has = |n| boxes.young.contains_key(&key(n)) || boxes.old.contains_key(&key(n));
            assert!(has(2));
            assert_eq!(has(1), now < START + 2 * KEPT, "{now:?}");
        }
    }

    #[test]
    fn quiet_time_leaves_no_memory_and_no_wish() {
        let mut boxes = boxes(200);
        assert_eq!(boxes.poll_forget(), None);
        let mut now = START;
        // Few are not worth a word.
        for (count, many) in [(200, true), (10, false), (100, true)] {
            for n in 0..count {
                boxes.with(key(n), now);
            }
            let mut last = Vec::new();
            while let Some(due) = boxes.poll_forget() {
                assert!(!boxes.forget(now), "{due:?} has not come");
                assert_eq!(boxes.poll_forget(), Some(due));
                now = due;
                last.push(boxes.forget(now));
            }
            assert_eq!(last, [false, many]);
            assert_eq!(boxes.young.capacity() + boxes.old.capacity(), 0);
        }
    }
}
