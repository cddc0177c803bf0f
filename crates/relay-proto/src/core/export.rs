//! Export and import of sessions, so that a relay outlives its process.

use super::Core;
use crate::{
    event::Event,
    session::{Session, deadline::Due, saved::SavedSession, shard::Shard},
    shared_path::{SharedTat, SharedVnis},
    state::State,
    time::Timestamp,
};

impl<P: SharedTat + SharedVnis> Core<P> {
    /// The state with which a successor goes on with these sessions.
    pub fn export(&self, now: Timestamp) -> State {
        let save = |session: &Session| {
            let node = self.limits.node(session.owner);
            session.save(node, &self.locals, now)
        };
        State {
            keys: self.keys.clone(),
            next_lamport: self.limits.next_lamport(),
            challenges: vec![self.challenges.save(now)],
            sessions: self.table.iter().map(save).collect(),
        }
    }

    /// Imports the sessions of `state` in the shards that `is_own` accepts; returns their number.
    ///
    /// Sessions that have ended (see [`State::age`]) or exceed a limit are left out. Each open session
    /// causes an [`Event::Opened`].
    ///
    /// This core must be new and have the state's keys, and the first LamportID of its
    /// [`SharedLimits`](crate::SharedLimits) must be at least the state's. Handshakes in progress go
    /// on only if the state comes from as many cores as the relay has; `core` is this one's number.
    pub fn import(
        &mut self,
        state: &State,
        core: usize,
        is_own: impl Fn(Shard) -> bool,
        now: Timestamp,
    ) -> usize {
        if let Some(saved) = state.challenges.get(core) {
            self.challenges.restore(saved, now);
        }
        let own = |saved: &&SavedSession| is_own(Shard::of(saved.vni));
        let sessions = state.sessions.iter().filter(own);
        sessions
            .filter(|saved| self.import_session(saved, now))
            .count()
    }

    /// Imports one session. Returns `false` for a session that this core cannot continue.
    fn import_session(&mut self, saved: &SavedSession, now: Timestamp) -> bool {
        let mut legs = saved.legs.iter().filter_map(|leg| leg.address);
        // Whoever wrote the state may have allowed other addresses, and no handshake checks these
        // again.
        if self.table.has(saved.vni) || !legs.all(|leg| self.policy.may_bind(&leg)) {
            return false;
        }
        let Ok(owner) = self.limits.enter(saved.owner) else {
            return false;
        };
        let session = Session::restore(saved, owner, &mut self.locals, now);
        let (vni, lamport) = (session.vni, session.lamport);
        let deadline = session.deadline(self.config.bind_lifetime, self.config.steady_lifetime);
        if deadline <= now {
            self.limits.leave(owner);
            return false;
        }
        let opened = self.opened(&session);
        self.enter(session);
        if let Some(opened) = opened {
            self.events.push_back(opened);
            self.table.mark_open(vni);
        }
        self.deadlines.insert(Due::new(deadline, vni, lamport));
        true
    }

    fn opened(&self, session: &Session) -> Option<Event> {
        let (legs, locals) = session.open_legs()?;
        Some(Event::Opened {
            vni: session.vni,
            legs,
            locals: locals.map(|local| self.locals.address(local)),
        })
    }
}
