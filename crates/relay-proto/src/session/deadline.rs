//! The queue of times at which sessions must be checked for their end.
//!
//! A datagram moves a session's end without touching the queue. When an entry falls due, the session
//! says when it really ends, and is queued again if that is later. So each session costs one queue
//! operation per lifetime, and nothing is ever scanned.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{time::Timestamp, wire::geneve::Vni};

/// The number of stale entries that are tolerated before the whole queue is swept.
const MAX_STALE: usize = 64;

/// An entry: when to check which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) vni: Vni,
    /// Low half of the session's LamportID. A freed VNI rests long enough that both together never
    /// name two sessions.
    lamport: u32,
}

impl Due {
    pub(crate) const fn new(at: Timestamp, vni: Vni, lamport: u64) -> Self {
        Self {
            at,
            vni,
            lamport: lamport as u32,
        }
    }

    /// Returns whether this entry belongs to the session with its VNI and this LamportID.
    pub(crate) const fn is_of(&self, lamport: u64) -> bool {
        self.lamport == lamport as u32
    }
}

/// The queue of deadlines. Each session has at least one entry, and its earliest is no later than its
/// end.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    heap: BinaryHeap<Reverse<Due>>,
    /// Upper bound of the number of stale entries: those of sessions that ended before they fell due.
    stale: usize,
}

impl Deadlines {
    pub(crate) fn insert(&mut self, due: Due) {
        self.heap.push(Reverse(due));
    }

    /// Removes stale entries after a session has ended; `early` if one of its entries had not fallen
    /// due. `is_live` says whose entries are needed. The queue never has more than about twice those.
    pub(crate) fn discard_stale(&mut self, early: bool, is_live: impl Fn(&Due) -> bool) {
        self.stale += usize::from(early);
        if self.stale > MAX_STALE && self.stale > self.heap.len() / 2 {
            self.heap.retain(|Reverse(due)| is_live(due));
            self.stale = 0;
        }
        while self.heap.peek().is_some_and(|Reverse(due)| !is_live(due)) {
            self.heap.pop();
            self.stale = self.stale.saturating_sub(1);
        }
    }

    /// The earliest entry.
    pub(crate) fn peek(&self) -> Option<&Due> {
        self.heap.peek().map(|Reverse(due)| due)
    }

    /// The time of the earliest entry.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.peek().map(|due| due.at)
    }

    /// Removes one entry that is due, in the order of time and VNI.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Due> {
        (self.next()? <= now).then_some(())?;
        self.heap.pop().map(|Reverse(due)| due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::time::Duration;

    use super::*;

    fn due(at: u64, vni: u32) -> Due {
        let at = Timestamp::from_start(Duration::from_secs(at));
        Due::new(at, Vni::new(vni).unwrap(), u64::from(vni))
    }

    #[test]
    fn entries_of_ended_sessions_do_not_pile_up() {
        let mut deadlines = Deadlines::default();
        for n in 1..100_000 {
            // All sessions but the last ten have ended; those are first in the queue.
            deadlines.insert(due(1_000_000 - u64::from(n), n));
            deadlines.discard_stale(true, |due| due.vni.number() + 10 > n);
            assert!(deadlines.heap.len() < 20 + 2 * MAX_STALE);
        }
    }
}
