//! Sessions in the order in which they must be looked at.
//!
//! A data packet moves a session's end without touching the queue: when an entry falls due, the
//! session says when it really ends, and is queued again if that is later. So each session costs
//! one queue operation per lifetime, and nothing is ever scanned.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::{time::Timestamp, wire::geneve::Vni};

/// Entries of sessions that ended which are not worth a look at all others.
const FEW: usize = 64;

/// When to look at which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) vni: Vni,
    /// Of the session's LamportID: a VNI rests long enough that both are never the same again.
    low: u32,
}

impl Due {
    pub(crate) const fn new(at: Timestamp, vni: Vni, lamport: u64) -> Self {
        Self {
            at,
            vni,
            low: lamport as u32,
        }
    }

    /// Whether this entry is of the session with its VNI and this LamportID.
    pub(crate) const fn is_of(&self, lamport: u64) -> bool {
        self.low == lamport as u32
    }
}

/// Due times, at least one per session, the earliest of each no later than its end.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    heap: BinaryHeap<Reverse<Due>>,
    /// How many entries at most are of sessions that ended before they fell due.
    left: usize,
}

impl Deadlines {
    pub(crate) fn insert(&mut self, due: Due) {
        self.heap.push(Reverse(due));
    }

    /// Sessions ended, one of them with an entry that had not fallen due when `early`; `lives` says
    /// whose entries are needed. There are never more than about twice those.
    pub(crate) fn leave(&mut self, early: bool, lives: impl Fn(&Due) -> bool) {
        self.left += usize::from(early);
        if self.left > FEW && self.left > self.heap.len() / 2 {
            self.heap.retain(|Reverse(due)| lives(due));
            self.left = 0;
        }
        while self.heap.peek().is_some_and(|Reverse(due)| !lives(due)) {
            self.heap.pop();
            self.left = self.left.saturating_sub(1);
        }
    }

    /// The entry that is due first.
    pub(crate) fn peek(&self) -> Option<&Due> {
        self.heap.peek().map(|Reverse(due)| due)
    }

    /// The earliest due time.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.peek().map(|due| due.at)
    }

    /// Takes one entry that is due, in the order of time and VNI.
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
            // All but the last ten have ended, which are first.
            deadlines.insert(due(1_000_000 - u64::from(n), n));
            deadlines.leave(true, |due| due.vni.number() + 10 > n);
            assert!(deadlines.heap.len() < 20 + 2 * FEW);
        }
    }
}
