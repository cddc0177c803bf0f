//! Time: which sessions end, and when unused memory is given back.

use super::Core;
use crate::{
    crypto::key::Side,
    event::CloseReason,
    session::deadline::Due,
    shared_path::{SharedTat, SharedVnis},
    time::Timestamp,
    wire::geneve::Vni,
};

impl<P: SharedTat + SharedVnis> Core<P> {
    /// The time at which [`Core::handle_timeout`] must be called; data never changes it.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Ends all sessions that are over, in one step for each session that falls due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while self.due(now).is_some() {
            self.handle_due(now);
        }
    }

    /// The session that [`Core::handle_due`] would check now.
    pub fn due(&self, now: Timestamp) -> Option<Vni> {
        let next = self.deadlines.peek().filter(|due| due.at <= now)?;
        Some(next.vni)
    }

    /// Checks the session that is due first, and ends it if it is over. Many sessions may fall due
    /// at once; a driver with datagrams to serve checks some of them and comes back.
    pub fn handle_due(&mut self, now: Timestamp) {
        let Some(due) = self.deadlines.pop_due(now) else {
            return;
        };
        let vni = due.vni;
        if let Some(session) = self.table.get(vni).filter(|s| due.is_of(s.lamport)) {
            let deadline = session.deadline(self.config.bind_lifetime, self.config.steady_lifetime);
            if deadline > now {
                self.deadlines
                    .insert(Due::new(deadline, vni, session.lamport));
            } else if session.is_open() {
                self.counters.expired_silent += 1;
                self.close(vni, CloseReason::Silent, now);
            } else {
                self.counters.expired_unbound += 1;
                self.close(vni, CloseReason::Unbound, now);
            }
        }
        // The session may have a second entry, which is now first in the queue.
        self.discard_stale_deadlines(false);
    }

    /// Records when another data path last heard from leg A and leg B of an open session. Unknown
    /// sessions are ignored.
    pub fn handle_activity(&mut self, vni: Vni, last_seen: [Timestamp; 2]) {
        if let Some(session) = self.table.get_mut(vni).filter(|s| s.is_open()) {
            for (side, last_seen) in [Side::A, Side::B].into_iter().zip(last_seen) {
                session.record_heard(side, last_seen);
            }
        }
    }

    /// The time at which [`Core::forget`] has memory to free, soon after clients were heard; data
    /// never changes it.
    #[must_use]
    pub const fn poll_forget(&self) -> Option<Timestamp> {
        self.shared_keys.poll_forget()
    }

    /// Frees what was cached for clients that have gone quiet; changes no verdict. Returns whether a
    /// large amount of memory was freed.
    pub fn forget(&mut self, now: Timestamp) -> bool {
        self.shared_keys.forget(now)
    }

    /// Queues a newly opened session for its end, if that comes before its time to bind is over.
    pub(super) fn queue_early_end(&mut self, vni: Vni) {
        let (bind, steady) = (self.config.bind_lifetime, self.config.steady_lifetime);
        let Some(session) = self.table.get(vni) else {
            return;
        };
        let end = session.deadline(bind, steady);
        if end < session.allocated + bind {
            self.deadlines.insert(Due::new(end, vni, session.lamport));
        }
    }

    /// Removes queue entries of ended sessions; `early` if one ended before it fell due.
    pub(super) fn discard_stale_deadlines(&mut self, early: bool) {
        let table = &self.table;
        let is_live = |due: &Due| table.get(due.vni).is_some_and(|s| due.is_of(s.lamport));
        self.deadlines.discard_stale(early, is_live);
    }
}
