//! The model: sessions in a list, in the words of docs/wire.md sections 4 to 7 and 9.

use std::net::SocketAddr;

use relay_proto::{
    CloseReason, Config, Counters, DiscoPublic, DropReason, Event, Family, LegInfo, SessionCounts,
    SessionInfo, Timestamp, Vni,
};

use crate::sim::seconds;

/// A freed VNI is not given out again for this long.
const VNI_REST: u64 = 60;

/// A bind, or with a proof an answer, that its client has sealed.
#[derive(Debug, Clone)]
pub(super) struct Meaning {
    pub(super) vni: Vni,
    pub(super) side: usize,
    pub(super) client: usize,
    pub(super) generation: u32,
    pub(super) proof: Option<Proof>,
}

/// A challenge that the relay has given out, once or more often.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    pub(super) mac: [u8; 32],
    pub(super) source: SocketAddr,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// The required result of a control datagram.
#[derive(Debug)]
pub(super) enum Expected {
    Challenge,
    /// The leg is bound; where secrets may or may not have been replaced, both are right.
    Bound {
        or_too_old: bool,
    },
    Drop(DropReason),
}

#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    begun: Option<u32>,
    completed: u32,
    address: Option<SocketAddr>,
    seen: Timestamp,
    packets: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Session {
    vni: Vni,
    lamport: u64,
    owner: usize,
    pair: [usize; 2],
    allocated: Timestamp,
    legs: [Leg; 2],
}

impl Session {
    fn addresses(&self) -> Option<[SocketAddr; 2]> {
        Some([self.legs[0].address?, self.legs[1].address?])
    }

    fn is_open(&self) -> bool {
        self.addresses().is_some()
    }
}

pub(super) struct Model {
    config: Config,
    now: Timestamp,
    /// In order of allocation.
    sessions: Vec<Session>,
    freed: Vec<(Vni, Timestamp)>,
    events: Vec<Event>,
    pub(super) counters: Counters,
    pub(super) next_lamport: u64,
}

impl Model {
    pub(super) fn new(config: Config, now: Timestamp) -> Self {
        Self {
            config,
            now,
            sessions: Vec::new(),
            freed: Vec::new(),
            events: Vec::new(),
            counters: Counters::default(),
            next_lamport: 100,
        }
    }

    /// Checks the relay's answer to a request of `owner`. Which VNI it draws is up to the relay.
    pub(super) fn allocate(
        &mut self,
        owner: usize,
        pair: [usize; 2],
        given: Result<(Vni, u64), DropReason>,
    ) {
        if let Some(session) = self.sessions.iter().find(|session| session.pair == pair) {
            assert_eq!(given, Ok((session.vni, session.lamport)));
            self.counters.reallocations += 1;
            return;
        }
        if let Err(reason) = self.make_room(owner) {
            assert_eq!(given, Err(reason));
            self.counters.drops[reason.index()] += 1;
            return;
        }
        let (vni, lamport) = given.expect("there is room");
        assert_eq!(lamport, self.next_lamport);
        assert!(self.sessions.iter().all(|session| session.vni != vni));
        let resting =
            |(freed, at): &(Vni, Timestamp)| *freed == vni && self.now < *at + seconds(VNI_REST);
        assert!(!self.freed.iter().any(resting));
        self.next_lamport += 1;
        self.counters.allocations += 1;
        self.sessions.push(Session {
            vni,
            lamport,
            owner,
            pair,
            allocated: self.now,
            legs: [Leg::default(); 2],
        });
    }

    fn make_room(&mut self, owner: usize) -> Result<(), DropReason> {
        let own = self
            .sessions
            .iter()
            .filter(|session| session.owner == owner);
        if own.count() >= self.config.max_sessions_per_node {
            self.evict(|session| session.owner == owner)
                .ok_or(DropReason::NodeLimit)?;
        }
        if self.sessions.len() >= self.config.max_sessions {
            self.evict(|_| true).ok_or(DropReason::SessionLimit)?;
        }
        Ok(())
    }

    /// Ends the oldest session that is not open yet, of those that match.
    fn evict(&mut self, matches: impl Fn(&Session) -> bool) -> Option<()> {
        let gives_way = |session: &Session| !session.is_open() && matches(session);
        let at = self.sessions.iter().position(gives_way)?;
        self.counters.evicted += 1;
        self.close(at, CloseReason::Evicted, self.now);
        Some(())
    }

    fn close(&mut self, at: usize, reason: CloseReason, now: Timestamp) {
        let vni = self.sessions.remove(at).vni;
        self.freed.push((vni, now));
        self.events.push(Event::Closed { vni, reason });
    }

    /// The required result of a bind or an answer. The model changes too, unless a leg is bound.
    pub(super) fn control(&mut self, message: &Meaning, source: SocketAddr) -> Expected {
        let expected = self.judge(message, source);
        match &expected {
            Expected::Challenge => self.counters.challenges += 1,
            Expected::Drop(reason) => self.counters.drops[reason.index()] += 1,
            Expected::Bound { .. } => {}
        }
        expected
    }

    fn judge(&mut self, message: &Meaning, source: SocketAddr) -> Expected {
        let (now, rotation) = (self.now, self.config.secret_rotation);
        let Some(session) = self.session(message.vni) else {
            return Expected::Drop(DropReason::UnknownVni);
        };
        assert_eq!(session.pair[message.side], message.client);
        if source.ip().is_loopback() {
            return Expected::Drop(DropReason::SourceNotBindable);
        }
        let leg = &mut session.legs[message.side];
        let generation = message.generation;
        let Some(proof) = &message.proof else {
            let newer = generation > leg.completed && leg.begun.is_none_or(|g| generation >= g);
            if generation == 0 || !newer {
                return Expected::Drop(DropReason::StaleGeneration);
            }
            leg.begun = Some(generation);
            return Expected::Challenge;
        };
        if leg.begun != Some(generation) {
            return Expected::Drop(DropReason::StaleGeneration);
        }
        if proof.source != source || now >= proof.first + 2 * rotation {
            return Expected::Drop(DropReason::BadChallenge);
        }
        Expected::Bound {
            or_too_old: now > proof.last + rotation,
        }
    }

    /// The answer bound its leg.
    pub(super) fn complete(&mut self, answer: &Meaning, source: SocketAddr) {
        let now = self.now;
        let session = self.session(answer.vni).expect("judged before");
        let was_open = session.is_open();
        let leg = &mut session.legs[answer.side];
        let was_bound = leg.address.is_some();
        leg.begun = None;
        leg.completed = answer.generation;
        leg.address = Some(source);
        leg.seen = now;
        let (vni, addresses) = (session.vni, session.addresses());
        match was_bound {
            true => self.counters.rebinds += 1,
            false => self.counters.binds += 1,
        }
        match addresses {
            Some(legs) if was_open => self.events.push(Event::Moved {
                vni,
                legs,
                locals: [None; 2],
            }),
            Some(legs) => self.events.push(Event::Opened {
                vni,
                legs,
                locals: [None; 2],
            }),
            None => {}
        }
    }

    /// The answer came when its challenge may or may not count, and did not count.
    pub(super) fn too_old(&mut self, reason: DropReason) {
        assert_eq!(reason, DropReason::BadChallenge);
        self.counters.drops[reason.index()] += 1;
    }

    pub(super) fn data(
        &mut self,
        vni: Vni,
        source: SocketAddr,
        bytes: u64,
    ) -> Result<SocketAddr, DropReason> {
        let forwarded = self.forward(vni, source, bytes);
        match &forwarded {
            Ok(to) => {
                let [from, to] = [&source, to].map(|address| Family::of(address) as usize);
                self.counters.forwarded[from][to].packets += 1;
                self.counters.forwarded[from][to].bytes += bytes;
            }
            Err(reason) => self.counters.drops[reason.index()] += 1,
        }
        forwarded
    }

    fn forward(
        &mut self,
        vni: Vni,
        source: SocketAddr,
        bytes: u64,
    ) -> Result<SocketAddr, DropReason> {
        let now = self.now;
        let session = self.session(vni).ok_or(DropReason::UnknownVni)?;
        let addresses = session.addresses().ok_or(DropReason::NotBound)?;
        let side = addresses.iter().position(|address| *address == source);
        let side = side.ok_or(DropReason::WrongSource)?;
        let leg = &mut session.legs[side];
        leg.seen = now;
        leg.packets += 1;
        leg.bytes += bytes;
        Ok(addresses[1 - side])
    }

    /// Ends, in order, what ends until then.
    pub(super) fn pass_until(&mut self, now: Timestamp) {
        loop {
            let ends = self.sessions.iter().map(|session| self.end(session));
            let next = ends
                .enumerate()
                .min_by_key(|(at, end)| (*end, self.sessions[*at].vni));
            let Some((at, end)) = next.filter(|(_, end)| *end <= now) else {
                break;
            };
            let reason = if self.sessions[at].is_open() {
                self.counters.expired_silent += 1;
                CloseReason::Silent
            } else {
                self.counters.expired_unbound += 1;
                CloseReason::Unbound
            };
            self.close(at, reason, end.max(self.now));
        }
        self.now = now;
    }

    fn end(&self, session: &Session) -> Timestamp {
        if session.is_open() {
            session.legs[0].seen.min(session.legs[1].seen) + self.config.steady_lifetime
        } else {
            session.allocated + self.config.bind_lifetime
        }
    }

    pub(super) fn next_end(&self) -> Option<Timestamp> {
        self.sessions.iter().map(|session| self.end(session)).min()
    }

    pub(super) fn leg_address(&mut self, vni: Vni, side: usize) -> Option<SocketAddr> {
        self.session(vni)?.legs[side].address
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn counts(&self) -> SessionCounts {
        let open = self
            .sessions
            .iter()
            .filter(|session| session.is_open())
            .count();
        SessionCounts {
            connecting: self.sessions.len() - open,
            open,
        }
    }

    /// The descriptions of sessions that the relay must return; `keys` are those of the clients in
    /// order.
    pub(super) fn infos(&self, keys: &[DiscoPublic]) -> Vec<SessionInfo> {
        let mut sessions: Vec<_> = self.sessions.iter().collect();
        sessions.sort_by_key(|session| session.pair);
        let info = |session: &Session| SessionInfo {
            vni: session.vni,
            lamport: session.lamport,
            allocated: session.allocated,
            legs: [0, 1].map(|side| LegInfo {
                client: keys[session.pair[side]],
                address: session.legs[side].address,
                local: None,
                packets: session.legs[side].packets,
                bytes: session.legs[side].bytes,
            }),
        };
        sessions.into_iter().map(info).collect()
    }

    fn session(&mut self, vni: Vni) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.vni == vni)
    }
}
