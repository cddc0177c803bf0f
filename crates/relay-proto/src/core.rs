//! The core: datagrams and time in, decisions out. One core serves one thread's share of a relay's
//! sessions.
//!
//! A core is generic, so its code is compiled in the driver's crate. The functions that each datagram
//! runs are `#[inline]` for that reason: without it, a core with more sessions than the CPU caches
//! forwards a fifth fewer datagrams a second (`cargo run --release -p relay-proto --example scale`).

mod admission;
mod expiry;
mod export;
mod handshake;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use crate::{
    config::{Config, Keys},
    counters::{Counters, Traffic},
    crypto::{
        key::{DiscoPublic, Side},
        key_cache::SharedKeyCache,
    },
    event::{Event, LegInfo, SessionCounts, SessionInfo},
    limits::{SharedLimits, bandwidth::SessionBandwidth},
    session::{
        address::{AddressPolicy, canonical},
        challenge::Challenges,
        deadline::Deadlines,
        local_addr::LocalAddrTable,
        table::Table,
    },
    shared_path::{SharedTat, SharedVnis},
    time::Timestamp,
    verdict::{DropReason, Verdict},
    wire::{
        disco::BIND_FRAME_LEN,
        geneve::{HEADER_LEN, Header, Vni},
        is_stun,
    },
};

/// The size of the reply buffer in bytes, which is that of the smallest bind that is answered.
pub const REPLY_LEN: usize = HEADER_LEN + BIND_FRAME_LEN;

/// The clients, in each of two generations, whose handshakes cost one X25519 only: those of one
/// second at a thousand handshakes a second. Only clients of sessions get an entry, so strangers
/// cannot fill the cache.
const CACHED_CLIENTS: usize = (1 << 10) / 8 * 7;

/// The sessions of some shards of a relay.
///
/// The cores of a relay share one [`SharedLimits`]. Each must be given the requests and the datagrams
/// of its own shards and no others. `P` is another data path of the relay; `()` for none.
pub struct Core<P = ()> {
    config: Config,
    keys: Keys,
    shared_keys: SharedKeyCache,
    rng: ChaCha20Rng,
    challenges: Challenges,
    table: Table,
    deadlines: Deadlines,
    events: VecDeque<Event>,
    counters: Counters,
    policy: AddressPolicy,
    locals: LocalAddrTable,
    limits: Arc<SharedLimits<P>>,
    bandwidth: Option<SessionBandwidth>,
}

impl<P: SharedTat + SharedVnis> Core<P> {
    /// A core without sessions. `seed` must be secret, and is never used for a second core.
    pub fn new(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        limits: Arc<SharedLimits<P>>,
        now: Timestamp,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            challenges: Challenges::new(&mut rng, config.secret_rotation, now),
            policy: AddressPolicy::new(config.allow_loopback_bind),
            shared_keys: SharedKeyCache::new(&keys.server, CACHED_CLIENTS),
            bandwidth: SessionBandwidth::new(&config),
            config,
            keys,
            rng,
            table: Table::default(),
            deadlines: Deadlines::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            locals: LocalAddrTable::default(),
            limits,
        }
    }

    /// Replaces the relay's own addresses: a datagram that claims to come from one of them never
    /// binds.
    pub fn set_addresses(&mut self, advertised: &[SocketAddr]) {
        let own = advertised.iter().copied().map(canonical);
        self.policy.set_own(own);
    }

    /// Handles one datagram from the UDP port. `local` is the address that it was sent to, if the
    /// driver knows it.
    pub fn handle_datagram(
        &mut self,
        source: SocketAddr,
        local: Option<IpAddr>,
        datagram: &[u8],
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> Verdict {
        // Legs are compared and judged in one form. A dual-stack socket would name an IPv4 source in
        // mapped form.
        let source = canonical(source);
        let verdict = match Header::decode(datagram) {
            None => Err(DropReason::Malformed),
            Some(header) if header.control => {
                self.handshake(header, (source, local), datagram, now, reply)
            }
            Some(header) => self.forward(header.vni, source, 1, datagram.len() as u64, now),
        };
        verdict.unwrap_or_else(|reason| {
            // The magic cookie of STUN is where Geneve has the VNI, so a STUN message reads as data.
            let stun = reason == DropReason::UnknownVni && is_stun(datagram);
            self.drop(if stun {
                DropReason::UnsolicitedStun
            } else {
                reason
            })
        })
    }

    /// Handles `packets` data datagrams of one session from one source, with `bytes` of UDP payload
    /// in all: a super-datagram that passed [`uniform_data`](crate::geneve::uniform_data).
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

    /// Counts a control datagram that the driver dropped for lack of time.
    pub const fn record_busy(&mut self) {
        self.counters.count_drop(DropReason::Busy);
    }

    /// Returns the next event. The driver empties the queue after each call that handles a control
    /// datagram, an allocation or a timeout; data causes no events.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// All sessions, in an order that depends on earlier calls only. Data that another path forwarded
    /// is not in their counts.
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

    /// The number of sessions by state.
    pub fn session_counts(&self) -> SessionCounts {
        let connecting = self.table.unbound();
        SessionCounts {
            connecting,
            open: self.table.len() - connecting,
        }
    }

    /// Counters since the core was made.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Mutable counters, for drops that happen before a core is asked.
    pub(crate) const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// The LamportID of the relay's next allocation.
    pub fn next_lamport(&self) -> u64 {
        self.limits.next_lamport()
    }

    /// The public half of the server's key.
    pub const fn server_key(&self) -> DiscoPublic {
        self.shared_keys.public()
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
        if let Some(bandwidth) = &mut self.bandwidth {
            // Only data that would be forwarded counts against the limits.
            session.route(source)?;
            bandwidth.admit(vni, bytes, now, || self.limits.admit_bytes(bytes, now))?;
        }
        let (to, local) = session.forward(source, packets, bytes, now)?;
        self.counters.count_forward(&source, &to, packets, bytes);
        let from = self.locals.address(local);
        Ok(Verdict::Forward { to, from })
    }
}

impl<P> std::fmt::Debug for Core<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("sessions", &self.table.len())
            .finish_non_exhaustive()
    }
}
