//! The relay as a state machine: packets and time in, decisions out.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    address::AddressPolicy,
    challenge::Challenges,
    config::{Config, Keys, Peer},
    counters::Counters,
    deadline::Deadlines,
    desk::{Allocation, Desk, Request},
    disco::{BIND_FRAME_LEN, BindCommon, Frame, Message, NONCE_LEN, seal},
    event::{Activity, CloseReason, Event, LegInfo, SessionCounts, SessionInfo},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, Vni},
    key::{DiscoPublic, NodeKey, Side},
    lane::Lane,
    ledger::Ledger,
    sealer::Sealer,
    session::{Handshake, Leg, Session},
    state::State,
    table::Table,
    time::Timestamp,
    verdict::{DropReason, Verdict},
};

/// Size of the reply buffer, in bytes; equal to the smallest bind that is answered.
pub const REPLY_LEN: usize = HEADER_LEN + BIND_FRAME_LEN;

/// The relay. The crate's documentation has the driver's contract.
pub struct Relay {
    config: Config,
    desk: Desk,
    server: Sealer,
    rng: ChaCha20Rng,
    challenges: Challenges,
    table: Table,
    deadlines: Deadlines,
    events: VecDeque<Event>,
    counters: Counters,
    policy: AddressPolicy,
    ledger: Arc<Ledger>,
}

impl Relay {
    /// A relay without sessions. `seed` must be secret and never used twice; `first_lamport` must
    /// be greater than any LamportID this `server` key has given out before.
    pub fn new(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        first_lamport: u64,
        now: Timestamp,
    ) -> Self {
        let ledger = Arc::new(Ledger::new(&config, first_lamport));
        Self::with_ledger(config, keys, seed, ledger, now)
    }

    /// One of several cores of a relay, which share `ledger`. Each has lanes of its own: it must be
    /// given the requests and the datagrams of these and no others.
    pub fn with_ledger(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        ledger: Arc<Ledger>,
        now: Timestamp,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            challenges: Challenges::new(&mut rng, config.secret_rotation, now),
            policy: AddressPolicy::new(config.allow_loopback_bind),
            desk: Desk::new(&config, &keys),
            server: Sealer::new(keys.server),
            config,
            rng,
            table: Table::default(),
            deadlines: Deadlines::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            ledger,
        }
    }

    /// Replaces the addresses that allocations advertise, in order of preference. A datagram that
    /// claims to come from one of them never binds.
    pub fn set_addresses(&mut self, mut advertised: Vec<SocketAddr>) {
        for address in &mut advertised {
            *address = canonical(*address);
        }
        self.policy.set_own(&advertised);
        self.desk.set_addresses(advertised);
    }

    /// Whether allocation requests are answered. Sessions that exist go on either way.
    pub const fn set_accepting(&mut self, accepting: bool) {
        self.desk.set_accepting(accepting);
    }

    /// Handles a packet that DERP delivered; `from` is what the network map knows of its sender.
    ///
    /// # Errors
    /// The reason why it gets no answer.
    pub fn handle_derp(
        &mut self,
        from: Option<&Peer>,
        packet: &[u8],
        now: Timestamp,
    ) -> Result<Vec<u8>, DropReason> {
        let request = self.desk.open(from, packet).inspect_err(|reason| {
            self.counters.count_drop(*reason);
        })?;
        let allocation = self.allocate(&request, now)?;
        let nonce = self.nonce();
        Ok(self.desk.answer(&request, allocation, nonce))
    }

    /// Gives out a session for a request that a [`Desk`] has opened, or the pair's present one.
    ///
    /// # Errors
    /// A limit is reached.
    pub fn allocate(
        &mut self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Allocation, DropReason> {
        if let Some(session) = self.table.of_pair(&request.pair) {
            self.counters.reallocations += 1;
            return Ok(Allocation {
                vni: session.vni,
                lamport: session.lamport,
            });
        }
        self.open_session(request, now).inspect_err(|reason| {
            self.counters.count_drop(*reason);
        })
    }

    /// Handles one datagram from the UDP port; `local` is the address that was addressed, where it
    /// is known.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        local: Option<IpAddr>,
        datagram: &[u8],
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> Verdict {
        let source = canonical(source);
        let verdict = match Header::decode(datagram) {
            None => Err(DropReason::Malformed),
            Some(header) if header.control => {
                self.handshake(header, (source, local), datagram, now, reply)
            }
            Some(header) => self.forward(header.vni, source, 1, datagram.len() as u64, now),
        };
        verdict.unwrap_or_else(|reason| {
            let stun = reason == DropReason::UnknownVni && is_stun(datagram);
            self.drop(if stun {
                DropReason::UnsolicitedStun
            } else {
                reason
            })
        })
    }

    /// Handles `packets` data datagrams of one session with `bytes` of UDP payload in all, that
    /// came from one source: a super-datagram that [`crate::geneve::uniform_data`] has vouched for.
    pub fn handle_data(
        &mut self,
        vni: Vni,
        source: SocketAddr,
        packets: u32,
        bytes: u64,
        now: Timestamp,
    ) -> Verdict {
        self.forward(vni, canonical(source), packets, bytes, now)
            .unwrap_or_else(|reason| self.drop(reason))
    }

    /// When [`Relay::handle_timeout`] wants to be called. Never changes with data.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    /// Accounts what another path forwarded from leg A and leg B of an open session since it is
    /// open: totals, so that handing in the same twice changes nothing. A session that is not
    /// known is left alone.
    pub fn handle_activity(&mut self, vni: Vni, activity: [Activity; 2]) {
        if let Some(session) = self.table.get_mut(vni).filter(|s| s.is_open()) {
            for (side, activity) in [Side::A, Side::B].into_iter().zip(activity) {
                session.note_activity(side, activity);
            }
        }
    }

    /// Sessions that [`Relay::handle_timeout`] would judge now.
    pub fn due_sessions(&self, now: Timestamp) -> impl Iterator<Item = Vni> {
        self.deadlines.due(now)
    }

    /// Ends what is over. Costs one step for each session that falls due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some((vni, lamport)) = self.deadlines.pop_due(now) {
            let Some(session) = self.table.get_mut(vni).filter(|s| s.lamport == lamport) else {
                continue;
            };
            let deadline = session.deadline(self.config.bind_lifetime, self.config.steady_lifetime);
            if deadline > now {
                self.deadlines.insert(deadline, vni, lamport);
            } else if session.is_open() {
                self.counters.expired_silent += 1;
                self.close(vni, CloseReason::Silent, now);
            } else {
                self.counters.expired_unbound += 1;
                self.close(vni, CloseReason::Unbound, now);
            }
        }
    }

    /// The next thing that changed. The driver empties this after each call that handles a control
    /// packet, an allocation or a timeout; data causes no events.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// All sessions, ordered by pair of keys.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> {
        self.table.iter().map(|session| SessionInfo {
            vni: session.vni,
            lamport: session.lamport,
            allocated: session.allocated,
            legs: [Side::A, Side::B].map(|side| {
                let Leg {
                    address,
                    local,
                    packets,
                    bytes,
                    elsewhere,
                    ..
                } = *session.leg(side);
                LegInfo {
                    client: session.pair.key(side),
                    address,
                    local,
                    packets: packets + elsewhere.packets,
                    bytes: bytes + elsewhere.bytes,
                }
            }),
        })
    }

    /// What a successor needs to go on with these sessions.
    pub fn export(&self, now: Timestamp) -> State {
        State {
            keys: Keys {
                node: self.desk.secret().clone(),
                server: self.server.secret().clone(),
            },
            next_lamport: self.ledger.next_lamport(),
            challenges: vec![self.challenges.save(now)],
            sessions: self.table.iter().map(|session| session.save(now)).collect(),
        }
    }

    /// Goes on with the sessions of `state` that are in `lanes`, exported `away` ago; returns how
    /// many of them there are. What ended meanwhile, or has no room in the limits, is left out.
    /// Each open session is told as [`Event::Opened`].
    ///
    /// This relay must be new and have the state's keys, and its first LamportID must be the
    /// state's at least. It is number `core` of its relay's cores, of which the state must have had
    /// as many for handshakes in progress to go on too.
    pub fn import(
        &mut self,
        state: &State,
        core: usize,
        lanes: impl Fn(Lane) -> bool,
        now: Timestamp,
        away: Duration,
    ) -> usize {
        if let Some(saved) = state.challenges.get(core) {
            self.challenges.restore(saved, now, away);
        }
        let Config {
            bind_lifetime,
            steady_lifetime,
            ..
        } = self.config;
        let mut count = 0;
        for saved in &state.sessions {
            let session = Session::restore(saved, now, away);
            let (vni, lamport) = (session.vni, session.lamport);
            let deadline = session.deadline(bind_lifetime, steady_lifetime);
            let legs = [Side::A, Side::B].map(|side| session.leg(side).address);
            let bindable = legs.iter().flatten().all(|leg| self.policy.may_bind(leg));
            if !lanes(Lane::of(vni))
                || deadline <= now
                || !bindable
                || self.table.has(vni)
                || self.ledger.enter(session.owner).is_err()
            {
                continue;
            }
            for client in session.pair.keys() {
                self.server.retain(client);
            }
            let locals = [Side::A, Side::B].map(|side| session.leg(side).local);
            let unbound = session.allocated + bind_lifetime;
            self.table.insert(session);
            if let [Some(a), Some(b)] = legs {
                let legs = [a, b];
                self.events.push_back(Event::Opened { vni, legs, locals });
                self.table.mark_open(vni);
                self.deadlines.insert(deadline, vni, lamport);
            } else {
                self.deadlines.insert(unbound, vni, lamport);
            }
            count += 1;
        }
        count
    }

    /// Number of sessions by state.
    pub fn session_counts(&self) -> SessionCounts {
        let connecting = self.table.unbound();
        SessionCounts {
            connecting,
            open: self.table.len() - connecting,
        }
    }

    /// What happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The LamportID that the next allocation gets.
    pub fn next_lamport(&self) -> u64 {
        self.ledger.next_lamport()
    }

    /// Public half of the server's key.
    pub const fn server_key(&self) -> DiscoPublic {
        self.server.public()
    }

    const fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.count_drop(reason);
        Verdict::Drop(reason)
    }

    fn forward(
        &mut self,
        vni: Vni,
        source: SocketAddr,
        packets: u32,
        bytes: u64,
        now: Timestamp,
    ) -> Result<Verdict, DropReason> {
        let session = self.table.get_mut(vni).ok_or(DropReason::UnknownVni)?;
        let (to, from) = session.forward(source, packets, bytes, now)?;
        self.counters.count_forward(&source, &to, packets, bytes);
        Ok(Verdict::Forward { to, from })
    }

    fn open_session(
        &mut self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Allocation, DropReason> {
        let Request {
            pair, lane, owner, ..
        } = *request;
        self.make_room(owner, now)?;
        let vni = self.table.draw_vni(lane, &mut self.rng, now);
        let lamport = self.ledger.take_lamport();
        for client in pair.keys() {
            self.server.retain(client);
        }
        self.deadlines
            .insert(now + self.config.bind_lifetime, vni, lamport);
        self.table
            .insert(Session::new(vni, lamport, pair, owner, now));
        self.counters.allocations += 1;
        Ok(Allocation { vni, lamport })
    }

    /// Enters one more session of `owner` in the ledger. At a limit, the oldest unbound session
    /// gives way: of those of this core, which are all that it knows.
    fn make_room(&mut self, owner: NodeKey, now: Timestamp) -> Result<(), DropReason> {
        loop {
            let full = match self.ledger.enter(owner) {
                Ok(()) => return Ok(()),
                Err(full) => full,
            };
            let whose = (full == DropReason::NodeLimit).then_some(owner);
            self.evict(whose, now).ok_or(full)?;
        }
    }

    /// Ends the sessions of every node that `allowed` does not hold: the policy has changed, or the
    /// node is gone. Their clients ask again where they still may.
    pub fn revoke(&mut self, allowed: &BTreeSet<NodeKey>, now: Timestamp) {
        let refused = |owner: &NodeKey| !allowed.contains(owner);
        // Mostly there are none, and then no session is looked at.
        if !self.table.owners().any(|owner| refused(&owner)) {
            return;
        }
        let theirs = self.table.iter().filter(|session| refused(&session.owner));
        let theirs: Vec<_> = theirs.map(|session| session.vni).collect();
        for vni in theirs {
            self.counters.revoked += 1;
            self.close(vni, CloseReason::Revoked, now);
        }
    }

    fn evict(&mut self, owner: Option<NodeKey>, now: Timestamp) -> Option<()> {
        let vni = self.table.oldest_unbound(owner)?;
        if let Some(session) = self.table.get_mut(vni) {
            let queued = session.allocated + self.config.bind_lifetime;
            self.deadlines.remove(queued, vni, session.lamport);
        }
        self.counters.evicted += 1;
        self.close(vni, CloseReason::Evicted, now);
        Some(())
    }

    fn close(&mut self, vni: Vni, reason: CloseReason, now: Timestamp) {
        let Some(session) = self.table.remove(vni, now) else {
            return;
        };
        for client in session.pair.keys() {
            self.server.release(client);
        }
        self.ledger.leave(session.owner);
        self.events.push_back(Event::Closed { vni, reason });
    }

    fn handshake(
        &mut self,
        header: Header,
        (source, local): (SocketAddr, Option<IpAddr>),
        datagram: &[u8],
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> Result<Verdict, DropReason> {
        let session = self
            .table
            .get_mut(header.vni)
            .ok_or(DropReason::UnknownVni)?;
        if header.protocol != PROTOCOL_DISCO {
            return Err(DropReason::NotDisco);
        }
        let frame = Frame::parse(&datagram[HEADER_LEN..]).ok_or(DropReason::NotDisco)?;
        let side = session
            .pair
            .side_of(frame.sender)
            .ok_or(DropReason::UnknownSender)?;
        if !self.policy.may_bind(&source) {
            return Err(DropReason::SourceNotBindable);
        }
        let shared = self
            .server
            .of(frame.sender)
            .expect("a client with a session has its box");
        let message = frame.open(shared).ok_or(DropReason::BadSeal)?;
        self.challenges.rotate(&mut self.rng, now);
        let was_open = session.is_open();
        match session.handshake(side, &message, source, local, &self.challenges, now)? {
            Handshake::Challenge(challenge) => {
                self.counters.challenges += 1;
                let len = self.write_challenge(header.vni, frame.sender, challenge, reply);
                return Ok(Verdict::Reply { len });
            }
            Handshake::Bound => self.counters.binds += 1,
            Handshake::Rebound => self.counters.rebinds += 1,
        }
        if let [Some(a), Some(b)] = [Side::A, Side::B].map(|side| session.leg(side).address) {
            let (vni, legs) = (header.vni, [a, b]);
            let locals = [Side::A, Side::B].map(|side| session.leg(side).local);
            if was_open {
                self.events.push_back(Event::Moved { vni, legs, locals });
            } else {
                self.events.push_back(Event::Opened { vni, legs, locals });
                self.table.mark_open(vni);
                self.hasten(vni);
            }
        }
        Ok(Verdict::Consumed)
    }

    /// Queues a newly opened session for its end if that is before the end of its time to bind.
    fn hasten(&mut self, vni: Vni) {
        let Config {
            bind_lifetime,
            steady_lifetime,
            ..
        } = self.config;
        let Some(session) = self.table.get_mut(vni) else {
            return;
        };
        let queued = session.allocated + bind_lifetime;
        let end = session.deadline(bind_lifetime, steady_lifetime);
        if end < queued {
            self.deadlines.remove(queued, vni, session.lamport);
            self.deadlines.insert(end, vni, session.lamport);
        }
    }

    fn write_challenge(
        &mut self,
        vni: Vni,
        client: DiscoPublic,
        challenge: BindCommon,
        reply: &mut [u8; REPLY_LEN],
    ) -> usize {
        let (nonce, server) = (self.nonce(), self.server.public());
        let shared = self
            .server
            .of(client)
            .expect("a client with a session has its box");
        let plaintext = Message::Challenge(challenge).marshal();
        let frame = seal(shared, server, nonce, &plaintext);
        let header = Header {
            control: true,
            protocol: PROTOCOL_DISCO,
            vni,
        };
        reply[..HEADER_LEN].copy_from_slice(&header.encode());
        reply[HEADER_LEN..].copy_from_slice(&frame);
        REPLY_LEN
    }

    fn nonce(&mut self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }
}

/// Whether a datagram is a STUN binding message (docs/wire.md section 8).
fn is_stun(datagram: &[u8]) -> bool {
    const STUN_HEADER_LEN: usize = 20;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let Some(header) = datagram.first_chunk::<STUN_HEADER_LEN>() else {
        return false;
    };
    header[0] & 0xc0 == 0 && header[1] == 0x01 && header[4..8] == COOKIE
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddr::new(v6.ip().to_canonical(), v6.port()),
        SocketAddr::V4(_) => address,
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("sessions", &self.session_counts())
            .finish_non_exhaustive()
    }
}
