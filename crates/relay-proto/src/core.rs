//! The relay as a state machine: packets and time in, decisions out.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    allocator::{Allocation, Allocator, Request},
    config::{Config, Keys, Peer},
    counters::{Counters, Traffic},
    crypto::challenge::Challenges,
    crypto::key::{DiscoPublic, NodeKey, Side},
    crypto::key_cache::SharedKeyCache,
    event::{CloseReason, Event, LegInfo, SessionCounts, SessionInfo},
    limits::rate::SessionBandwidth,
    limits::{Owner, SharedLimits},
    session::address::{AddressPolicy, canonical},
    session::deadline::{Deadlines, Due},
    session::local_addr::LocalAddrTable,
    session::shard::Shard,
    session::table::Table,
    session::{Handshake, Session},
    state::State,
    time::Timestamp,
    verdict::{DropReason, Verdict},
    wire::disco::{BIND_FRAME_LEN, BindCommon, Frame, Message, NONCE_LEN, seal},
    wire::geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, Vni},
    wire::is_stun,
};

/// Size of the reply buffer, in bytes; equal to the smallest bind that is answered.
pub const REPLY_LEN: usize = HEADER_LEN + BIND_FRAME_LEN;

/// Clients, in each of two generations, whose handshakes cost one X25519 only: those of one second at
/// a thousand handshakes a second. Only clients of sessions get here, so a stranger costs none.
const CACHED_HANDSHAKES: usize = (1 << 10) / 8 * 7;

/// The relay. The crate's documentation has the driver's contract.
pub struct Relay {
    config: Config,
    allocator: Allocator,
    server: SharedKeyCache,
    rng: ChaCha20Rng,
    challenges: Challenges,
    table: Table,
    deadlines: Deadlines,
    events: VecDeque<Event>,
    counters: Counters,
    policy: AddressPolicy,
    locals: LocalAddrTable,
    limits: Arc<SharedLimits>,
    rates: Option<SessionBandwidth>,
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
        let limits = Arc::new(SharedLimits::new(&config, first_lamport));
        Self::with_limits(config, keys, seed, limits, now)
    }

    /// One of several cores of a relay, which share `limits`. Each has shards of its own: it must be
    /// given the requests and the datagrams of these and no others.
    pub fn with_limits(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        limits: Arc<SharedLimits>,
        now: Timestamp,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            challenges: Challenges::new(&mut rng, config.secret_rotation, now),
            policy: AddressPolicy::new(config.allow_loopback_bind),
            allocator: Allocator::new(&config, &keys),
            server: SharedKeyCache::new(keys.server, CACHED_HANDSHAKES),
            rates: SessionBandwidth::new(&config),
            config,
            rng,
            table: Table::new(limits.known()),
            deadlines: Deadlines::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            locals: LocalAddrTable::default(),
            limits,
        }
    }

    /// Replaces the addresses that allocations advertise, in order of preference. A datagram that
    /// claims to come from one of them never binds.
    pub fn set_addresses(&mut self, mut advertised: Vec<SocketAddr>) {
        for address in &mut advertised {
            *address = canonical(*address);
        }
        self.policy.set_own(&advertised);
        self.allocator.set_addresses(advertised);
    }

    /// Whether allocation requests are answered. Sessions that exist go on either way.
    pub const fn set_accepting(&mut self, accepting: bool) {
        self.allocator.set_accepting(accepting);
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
        let request = self
            .allocator
            .open(from, packet, now)
            .inspect_err(|reason| {
                self.counters.count_drop(*reason);
            })?;
        let allocation = self.allocate(&request)?;
        let nonce = self.nonce();
        Ok(self.allocator.answer(&request, allocation, nonce))
    }

    /// Gives out a session for a request that a [`Allocator`] has opened, or the pair's present one.
    ///
    /// # Errors
    /// A limit is reached.
    pub fn allocate(&mut self, request: &Request) -> Result<Allocation, DropReason> {
        if let Some(session) = self.table.of_pair(&request.pair) {
            self.counters.reallocations += 1;
            return Ok(Allocation {
                vni: session.vni,
                lamport: session.lamport,
            });
        }
        self.open_session(request, request.at())
            .inspect_err(|reason| {
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
    /// came from one source: a super-datagram that [`crate::wire::geneve::uniform_data`] has vouched for.
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

    /// Another path has heard from leg A and leg B of an open session, last then. A session that is
    /// not known is left alone.
    pub fn handle_activity(&mut self, vni: Vni, last_seen: [Timestamp; 2]) {
        if let Some(session) = self.table.get_mut(vni).filter(|s| s.is_open()) {
            for (side, last_seen) in [Side::A, Side::B].into_iter().zip(last_seen) {
                session.record_heard(side, last_seen);
            }
        }
    }

    /// The session that [`Relay::handle_due`] would judge now.
    pub fn due(&self, now: Timestamp) -> Option<Vni> {
        let next = self.deadlines.peek().filter(|due| due.at <= now)?;
        Some(next.vni)
    }

    /// Judges the session that is due first: it ends if it is over. Many may fall due at once; a
    /// driver that has datagrams to serve goes on with them after some.
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
        // Another entry of it may be next.
        self.forget_deadline(false);
    }

    /// Ends all that is over. Costs one step for each session that falls due.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while self.due(now).is_some() {
            self.handle_due(now);
        }
    }

    /// When [`Relay::forget`] wants to be called: soon after clients were heard. Never changes with
    /// data.
    #[must_use]
    pub fn poll_forget(&self) -> Option<Timestamp> {
        let own = [self.server.poll_forget(), self.allocator.poll_forget()];
        own.into_iter().flatten().min()
    }

    /// Lets go of what was kept to serve clients faster that have not been heard for a while;
    /// whether a lot of memory was freed. It is there for the driver's memory, and changes no
    /// verdict.
    pub fn forget(&mut self, now: Timestamp) -> bool {
        // Both have their turn.
        self.server.forget(now) | self.allocator.forget(now)
    }

    /// The next thing that changed. The driver empties this after each call that handles a control
    /// packet, an allocation or a timeout; data causes no events.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// All sessions, in an order that only depends on what was done before. What another path
    /// forwarded is not in them.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> {
        self.table.iter().map(|session| SessionInfo {
            vni: session.vni,
            lamport: session.lamport,
            allocated: session.allocated,
            legs: [Side::A, Side::B].map(|side| {
                let Traffic { packets, bytes } = session.traffic(side);
                LegInfo {
                    client: session.pair.key(side),
                    address: session.address(side),
                    local: self.locals.address(session.local(side)),
                    packets,
                    bytes,
                }
            }),
        })
    }

    /// What a successor needs to go on with these sessions.
    pub fn export(&self, now: Timestamp) -> State {
        State {
            keys: Keys {
                node: self.allocator.secret().clone(),
                server: self.server.secret().clone(),
            },
            next_lamport: self.limits.next_lamport(),
            challenges: vec![self.challenges.save(now)],
            sessions: self
                .table
                .iter()
                .map(|session| session.save(self.limits.node(session.owner), &self.locals, now))
                .collect(),
        }
    }

    /// Goes on with the sessions of `state` that are in `shards`; returns how many of them there are.
    /// What has ended (see [`State::age`]), or has no room in the limits, is left out. Each open
    /// session is told as [`Event::Opened`].
    ///
    /// This relay must be new and have the state's keys, and its first LamportID must be the
    /// state's at least. It is number `core` of its relay's cores, of which the state must have had
    /// as many for handshakes in progress to go on too.
    pub fn import(
        &mut self,
        state: &State,
        core: usize,
        shards: impl Fn(Shard) -> bool,
        now: Timestamp,
    ) -> usize {
        if let Some(saved) = state.challenges.get(core) {
            self.challenges.restore(saved, now);
        }
        let Config {
            bind_lifetime,
            steady_lifetime,
            ..
        } = self.config;
        let mut count = 0;
        for saved in &state.sessions {
            let mut legs = saved.legs.iter().filter_map(|leg| leg.address);
            if !shards(Shard::of(saved.vni))
                || self.table.has(saved.vni)
                || !legs.all(|leg| self.policy.may_bind(&leg))
            {
                continue;
            }
            let Ok(owner) = self.limits.enter(saved.owner) else {
                continue;
            };
            let session = Session::restore(saved, owner, &mut self.locals, now);
            let (vni, lamport) = (session.vni, session.lamport);
            let deadline = session.deadline(bind_lifetime, steady_lifetime);
            if deadline <= now {
                self.limits.leave(owner);
                continue;
            }
            let opened = self.opened(&session);
            self.table.insert(session);
            if let Some(opened) = opened {
                self.events.push_back(opened);
                self.table.mark_open(vni);
            }
            self.deadlines.insert(Due::new(deadline, vni, lamport));
            count += 1;
        }
        count
    }

    /// Counts a control packet that the driver has left out: there was no time for it.
    pub const fn record_busy(&mut self) {
        self.counters.count_drop(DropReason::Busy);
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
        self.limits.next_lamport()
    }

    /// Public half of the server's key.
    pub const fn server_key(&self) -> DiscoPublic {
        self.server.public()
    }

    fn opened(&self, session: &Session) -> Option<Event> {
        let (legs, locals) = session.open()?;
        Some(Event::Opened {
            vni: session.vni,
            legs,
            locals: locals.map(|local| self.locals.address(local)),
        })
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
        if let Some(rates) = &mut self.rates {
            session.route(source)?;
            rates.take(vni, bytes, now, self.limits.rate())?;
        }
        let (to, local) = session.forward(source, packets, bytes, now)?;
        self.counters.count_forward(&source, &to, packets, bytes);
        let from = self.locals.address(local);
        Ok(Verdict::Forward { to, from })
    }

    fn open_session(
        &mut self,
        request: &Request,
        now: Timestamp,
    ) -> Result<Allocation, DropReason> {
        let Request {
            pair, shard, owner, ..
        } = *request;
        let owner = self.make_room(owner, now)?;
        let vni = self.table.draw_vni(shard, &mut self.rng, now);
        let lamport = self.limits.take_lamport();
        self.deadlines
            .insert(Due::new(now + self.config.bind_lifetime, vni, lamport));
        self.table
            .insert(Session::new(vni, lamport, pair, owner, now));
        self.counters.allocations += 1;
        Ok(Allocation { vni, lamport })
    }

    /// Enters one more session of `node` in the limits. At a limit, the oldest unbound session
    /// gives way: of those of this core, which are all that it knows.
    fn make_room(&mut self, node: NodeKey, now: Timestamp) -> Result<Owner, DropReason> {
        loop {
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
            self.forget_deadline(true);
        }
    }

    /// Ends the sessions of every node that `allowed` does not hold: the policy has changed, or the
    /// node is gone. Their clients ask again where they still may.
    pub fn revoke(&mut self, allowed: &BTreeSet<NodeKey>, now: Timestamp) {
        let refused = self.limits.others(allowed);
        // Mostly there are none, and then no session is looked at.
        if refused.is_empty() {
            return;
        }
        let sessions = self.table.iter();
        let theirs = sessions.filter(|session| refused.contains(&session.owner));
        let theirs: Vec<_> = theirs.map(|session| session.vni).collect();
        for vni in theirs {
            self.counters.revoked += 1;
            self.close(vni, CloseReason::Revoked, now);
            self.forget_deadline(true);
        }
    }

    /// A session has ended, before it fell due when `early`.
    fn forget_deadline(&mut self, early: bool) {
        let table = &self.table;
        let lives = |due: &Due| table.get(due.vni).is_some_and(|s| due.is_of(s.lamport));
        self.deadlines.leave(early, lives);
    }

    fn close(&mut self, vni: Vni, reason: CloseReason, now: Timestamp) {
        let Some(session) = self.table.remove(vni, now) else {
            return;
        };
        self.limits.leave(session.owner);
        if let Some(rates) = &mut self.rates {
            rates.forget(vni);
        }
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
        let shared = self.server.shared_with(frame.sender, now);
        let message = frame.open(shared).ok_or(DropReason::BadSeal)?;
        self.challenges.rotate(&mut self.rng, now);
        let was_open = session.is_open();
        let way = (source, self.locals.number(local));
        match session.handshake(side, &message, way, &self.challenges, now)? {
            Handshake::Challenge(challenge) => {
                self.counters.challenges += 1;
                let len = self.write_challenge(header.vni, frame.sender, challenge, now, reply);
                return Ok(Verdict::Reply { len });
            }
            Handshake::Bound => self.counters.binds += 1,
            Handshake::Rebound => self.counters.rebinds += 1,
        }
        if let Some((legs, locals)) = session.open() {
            let locals = locals.map(|local| self.locals.address(local));
            let vni = header.vni;
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
        let Some(session) = self.table.get(vni) else {
            return;
        };
        let end = session.deadline(bind_lifetime, steady_lifetime);
        if end < session.allocated + bind_lifetime {
            self.deadlines.insert(Due::new(end, vni, session.lamport));
        }
    }

    fn write_challenge(
        &mut self,
        vni: Vni,
        client: DiscoPublic,
        challenge: BindCommon,
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> usize {
        let (nonce, server) = (self.nonce(), self.server.public());
        let shared = self.server.shared_with(client, now);
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

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("sessions", &self.session_counts())
            .finish_non_exhaustive()
    }
}
