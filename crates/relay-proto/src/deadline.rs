//! Sessions in the order in which they must be looked at.
//!
//! A data packet moves a session's end without touching the queue: when an entry falls due, the
//! session says when it really ends, and is queued again if that is later. So each session costs
//! one queue operation per lifetime, and nothing is ever scanned.

use std::collections::BTreeSet;

use crate::{geneve::Vni, time::Timestamp};

/// An ordered set of due times, one per session, none later than the session's end.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BTreeSet<(Timestamp, Vni, u64)>);

impl Deadlines {
    /// Queues the session `vni` with the unique id `lamport`.
    pub(crate) fn insert(&mut self, at: Timestamp, vni: Vni, lamport: u64) {
        self.0.insert((at, vni, lamport));
    }

    /// Takes back an entry that [`Deadlines::insert`] made with the same arguments.
    pub(crate) fn remove(&mut self, at: Timestamp, vni: Vni, lamport: u64) {
        self.0.remove(&(at, vni, lamport));
    }

    /// The earliest due time.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, ..)| *at)
    }

    /// Sessions whose entry is due.
    pub(crate) fn due(&self, now: Timestamp) -> impl Iterator<Item = Vni> {
        let due = self.0.iter().take_while(move |(at, ..)| *at <= now);
        due.map(|(_, vni, _)| *vni)
    }

    /// Takes one entry that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<(Vni, u64)> {
        (self.next()? <= now).then_some(())?;
        self.0.pop_first().map(|(_, vni, lamport)| (vni, lamport))
    }
}
