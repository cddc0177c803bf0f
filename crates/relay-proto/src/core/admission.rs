//! Begin and end of sessions: allocation, eviction at a limit, revocation.

use std::collections::BTreeSet;

use super::Core;
use crate::{
    allocator::{Allocation, Request},
    crypto::key::NodeKey,
    event::{CloseReason, Event},
    limits::Owner,
    session::{Session, deadline::Due},
    shared_path::{SharedTat, SharedVnis},
    time::Timestamp,
    verdict::DropReason,
    wire::geneve::Vni,
};

impl<P: SharedTat + SharedVnis> Core<P> {
    /// Allocates a session for a request that an [`Allocator`](crate::Allocator) has opened, or
    /// returns the pair's present session.
    ///
    /// # Errors
    /// A limit is reached, and no unbound session of this core can give way.
    pub fn allocate(&mut self, request: &Request) -> Result<Allocation, DropReason> {
        if let Some(session) = self.table.of_pair(&request.pair) {
            self.counters.reallocations += 1;
            // Both clients ask, and ask again while they look for a path. The same VNI and LamportID
            // tell them that this is the session which they know (`udprelay.Server.AllocateEndpoint`).
            return Ok(Allocation {
                vni: session.vni,
                lamport: session.lamport,
            });
        }
        self.open_session(request)
            .inspect_err(|reason| self.counters.count_drop(*reason))
    }

    /// Ends the sessions of these nodes, which have lost their right. Their clients ask again where they
    /// still may.
    pub fn revoke(&mut self, nodes: &BTreeSet<NodeKey>, now: Timestamp) {
        let revoked = self.limits.owners(nodes);
        // Without their sessions, no other session needs a look.
        if revoked.is_empty() {
            return;
        }
        let sessions = self.table.iter();
        let sessions = sessions.filter(|session| revoked.contains(&session.owner));
        let vnis: Vec<_> = sessions.map(|session| session.vni).collect();
        for vni in vnis {
            self.counters.revoked += 1;
            self.close(vni, CloseReason::Revoked, now);
            self.discard_stale_deadlines(true);
        }
    }

    fn open_session(&mut self, request: &Request) -> Result<Allocation, DropReason> {
        let now = request.at();
        let owner = self.make_room(request.owner, now)?;
        let vni = self.table.draw_vni(request.shard, &mut self.rng, now);
        let lamport = self.limits.take_lamport();
        let end = now + self.config.bind_lifetime;
        self.deadlines.insert(Due::new(end, vni, lamport));
        self.enter(Session::new(vni, lamport, request.pair, owner, now));
        self.counters.allocations += 1;
        Ok(Allocation { vni, lamport })
    }

    /// Counts one more session of `node`. At a limit the oldest unbound session gives way, of those
    /// of this core: a core knows no others.
    fn make_room(&mut self, node: NodeKey, now: Timestamp) -> Result<Owner, DropReason> {
        loop {
            // Asked again after each eviction: another core may have taken the place that became free.
            let full = match self.limits.enter(node) {
                Ok(owner) => return Ok(owner),
                Err(full) => full,
            };
            let oldest = match full {
                DropReason::NodeLimit => {
                    let owner = self.limits.owner(node);
                    let oldest = owner.and_then(|owner| self.table.oldest_unbound_of(owner));
                    oldest.map(|(_, vni)| vni)
                }
                DropReason::TagLimit => {
                    let sharing = self.limits.sharing(node).into_iter();
                    let oldest = sharing.filter_map(|owner| self.table.oldest_unbound_of(owner));
                    oldest.min().map(|(_, vni)| vni)
                }
                _ => self.table.oldest_unbound(),
            };
            let vni = oldest.ok_or(full)?;
            self.counters.evicted += 1;
            self.close(vni, CloseReason::Evicted, now);
            self.discard_stale_deadlines(true);
        }
    }

    /// Adds a session to the table, and its VNI to the filter of another data path.
    pub(super) fn enter(&mut self, session: Session) {
        // Before a client learns of the VNI: the other path drops data of VNIs that the filter lacks.
        if let Some(filter) = self.limits.vni_filter() {
            filter.insert(session.vni);
        }
        self.table.insert(session);
    }

    /// Ends a session, frees its VNI and reports `reason`.
    pub(super) fn close(&mut self, vni: Vni, reason: CloseReason, now: Timestamp) {
        let Some(session) = self.table.remove(vni, now) else {
            return;
        };
        // After the removal from the table, which says whether another session shares the bit.
        if let Some(filter) = self.limits.vni_filter() {
            filter.remove(vni, |other| self.table.has(other));
        }
        self.limits.leave(session.owner);
        if let Some(bandwidth) = &mut self.bandwidth {
            bandwidth.forget(vni);
        }
        self.events.push_back(Event::Closed { vni, reason });
    }
}
