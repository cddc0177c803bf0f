//! What outlives a process: keys, secrets and sessions, as bytes that only the same relay reads.
//!
//! ```text
//! "PRST" | version u16 | body | MAC of all before (keyed BLAKE2s-256)
//! body: node key 32 | server key 32 | next LamportID u64
//!       number u16 of cores, each: secret 32 | previous: 0, or 1 and 32 | age u64
//!       number u32 of sessions, each:
//!         VNI u32 | LamportID u64 | keys 2 x 32 | owner 32 | age u64 | leg | leg
//!       leg: begun u32 | completed u32 | address | local IP | silent u64 | packets u64 | bytes u64
//!       address: IP | port u16 (0: none); IP: 16 bytes, IPv4 mapped (all zero: none)
//! ```
//! Integers are big-endian, times nanoseconds. Times are ages, so that another clock reads them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    config::Keys,
    crypto::challenge::SavedChallenges,
    crypto::key::{DiscoPublic, DiscoSecret, KEY_LEN, NodeKey, Pair},
    session::shard::Shard,
    time::nanoseconds,
    wire::disco::Generation,
    wire::geneve::Vni,
};

const MAGIC: &[u8; 4] = b"PRST";
const VERSION: u16 = 1;
const MAC_LEN: usize = 32;

/// Keys, secrets and sessions of a relay at one moment, of all its cores.
#[derive(Debug, Clone)]
pub struct State {
    /// The relay's disco keys.
    pub keys: Keys,
    /// A LamportID greater than any that was given out.
    pub next_lamport: u64,
    pub(crate) challenges: Vec<SavedChallenges>,
    pub(crate) sessions: Vec<SavedSession>,
}

/// One session, with ages in place of points in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedSession {
    pub(crate) vni: Vni,
    pub(crate) lamport: u64,
    pub(crate) pair: Pair,
    pub(crate) owner: NodeKey,
    pub(crate) age: Duration,
    pub(crate) legs: [SavedLeg; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SavedLeg {
    pub(crate) in_progress: Generation,
    pub(crate) completed: Generation,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) silent: Duration,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Why bytes are no state of this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// It does not begin as a state does.
    NotState,
    /// Another version of this software wrote it.
    Version(u16),
    /// It is damaged, cut off, or of another relay: its driver says which relay is another.
    Foreign,
    /// It is authentic and contradicts itself.
    Contradiction,
}

impl std::fmt::Display for StateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotState => f.write_str("it is no relay state"),
            Self::Version(version) => write!(f, "it has version {version}, not {VERSION}"),
            Self::Foreign => f.write_str("it is damaged, or of a relay with another key or port"),
            Self::Contradiction => f.write_str("it contradicts itself"),
        }
    }
}

impl std::error::Error for StateError {}

impl State {
    /// Number of sessions, open and not.
    pub const fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    pub const fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Number of cores that it was taken from.
    pub const fn cores(&self) -> usize {
        self.challenges.len()
    }

    /// Makes everything older: that long nobody has looked after it.
    pub fn age(&mut self, away: Duration) {
        let grow = |age: &mut Duration| *age = age.saturating_add(away);
        for saved in &mut self.challenges {
            grow(&mut saved.age);
        }
        for session in &mut self.sessions {
            grow(&mut session.age);
            for leg in &mut session.legs {
                grow(&mut leg.silent);
            }
        }
    }

    /// Takes into account how long another path has not heard from leg A and leg B of a session;
    /// `None` where it knows nothing of it.
    pub fn record_silence(&mut self, of: impl Fn(Vni) -> Option<[Duration; 2]>) {
        for session in &mut self.sessions {
            let silences = of(session.vni).unwrap_or([Duration::MAX; 2]);
            for (leg, silence) in session.legs.iter_mut().zip(silences) {
                leg.silent = leg.silent.min(silence);
            }
        }
    }

    /// Adds what another core of the same relay has exported.
    pub fn append(&mut self, other: Self) {
        self.next_lamport = self.next_lamport.max(other.next_lamport);
        self.challenges.extend(other.challenges);
        self.sessions.extend(other.sessions);
    }

    /// The bytes, for whoever has `key` again.
    pub fn encode(&self, key: &[u8; 32]) -> Zeroizing<Vec<u8>> {
        let mut out = Writer(Zeroizing::new(Vec::with_capacity(256 * (self.len() + 1))));
        out.bytes(MAGIC);
        out.bytes(&VERSION.to_be_bytes());
        out.bytes(self.keys.node.bytes());
        out.bytes(self.keys.server.bytes());
        out.u64(self.next_lamport);
        out.bytes(&(self.challenges.len() as u16).to_be_bytes());
        for saved in &self.challenges {
            out.bytes(&*saved.current);
            match &saved.previous {
                None => out.bytes(&[0]),
                Some(previous) => {
                    out.bytes(&[1]);
                    out.bytes(&**previous);
                }
            }
            out.span(saved.age);
        }
        out.u32(self.sessions.len() as u32);
        for session in &self.sessions {
            out.session(session);
        }
        let mac = mac(key, &out.0);
        out.bytes(&mac);
        out.0
    }

    /// Reads what [`State::encode`] wrote with the same `key`.
    ///
    /// # Errors
    /// Why it is refused; nothing of it counts then.
    pub fn decode(bytes: &[u8], key: &[u8; 32]) -> Result<Self, StateError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::NotState)?;
        let version = rest.first_chunk().ok_or(StateError::NotState)?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(StateError::Version(version));
        }
        let (all, seal) = bytes
            .split_last_chunk::<MAC_LEN>()
            .ok_or(StateError::Foreign)?;
        if !bool::from(mac(key, all).ct_eq(seal)) {
            return Err(StateError::Foreign);
        }
        let body = all.get(MAGIC.len() + 2..).ok_or(StateError::Foreign)?;
        Self::read(&mut Reader(body)).ok_or(StateError::Contradiction)
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let keys = Keys {
            node: DiscoSecret::from_bytes(body.array()?),
            server: DiscoSecret::from_bytes(body.array()?),
        };
        let next_lamport = body.u64()?;
        let cores = u16::from_be_bytes(body.array()?);
        let challenges = (0..cores)
            .map(|_| body.challenges())
            .collect::<Option<_>>()?;
        let count = body.u32()?;
        let sessions = (0..count).map(|_| body.session()).collect::<Option<_>>()?;
        let state = Self {
            keys,
            next_lamport,
            challenges,
            sessions,
        };
        (body.0.is_empty() && state.is_consistent()).then_some(state)
    }

    /// Every number is given out once, and where it belongs.
    fn is_consistent(&self) -> bool {
        let shards = self.keys.server.shard_key();
        let (mut vnis, mut pairs) = (BTreeSet::new(), BTreeSet::new());
        self.sessions.iter().all(|session| {
            let [a, b] = session.pair.keys();
            a != b
                && session.lamport < self.next_lamport
                && Shard::of(session.vni) == shards.shard(&session.pair)
                && vnis.insert(session.vni)
                && pairs.insert(session.pair)
        })
    }
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; MAC_LEN] {
    let mut mac = Blake2sMac256::new_from_slice(key).expect("32 bytes are a valid key");
    mac.update(message);
    mac.finalize_fixed().into()
}

struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.bytes(&number.to_be_bytes());
    }

    fn span(&mut self, span: Duration) {
        self.u64(nanoseconds(span));
    }

    fn ip(&mut self, ip: Option<IpAddr>) {
        let ip = match ip {
            None => Ipv6Addr::UNSPECIFIED,
            Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped(),
            Some(IpAddr::V6(v6)) => v6,
        };
        self.bytes(&ip.octets());
    }

    fn session(&mut self, session: &SavedSession) {
        self.u32(session.vni.number());
        self.u64(session.lamport);
        for key in session.pair.keys() {
            self.bytes(&key.0);
        }
        self.bytes(&session.owner.0);
        self.span(session.age);
        for leg in &session.legs {
            self.u32(leg.in_progress.0);
            self.u32(leg.completed.0);
            self.ip(leg.address.map(|address| address.ip()));
            let port = leg.address.map_or(0, |address| address.port());
            self.bytes(&port.to_be_bytes());
            self.ip(leg.local);
            self.span(leg.silent);
            self.u64(leg.packets);
            self.u64(leg.bytes);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn span(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    fn ip(&mut self) -> Option<Option<IpAddr>> {
        let ip = Ipv6Addr::from(self.array::<16>()?);
        Some((!ip.is_unspecified()).then(|| ip.to_canonical()))
    }

    fn challenges(&mut self) -> Option<SavedChallenges> {
        Some(SavedChallenges {
            current: Zeroizing::new(self.array()?),
            previous: match self.array()? {
                [0] => None,
                [1] => Some(Zeroizing::new(self.array()?)),
                _ => return None,
            },
            age: self.span()?,
        })
    }

    fn session(&mut self) -> Option<SavedSession> {
        let vni = Vni::new(self.u32()?)?;
        let lamport = self.u64()?;
        let [a, b] = [self.array::<KEY_LEN>()?, self.array()?].map(DiscoPublic);
        Some(SavedSession {
            vni,
            lamport,
            pair: Pair::new(a, b),
            owner: NodeKey(self.array()?),
            age: self.span()?,
            legs: [self.leg()?, self.leg()?],
        })
    }

    fn leg(&mut self) -> Option<SavedLeg> {
        let in_progress = Generation(self.u32()?);
        let completed = Generation(self.u32()?);
        let ip = self.ip()?;
        let port = u16::from_be_bytes(self.array()?);
        let address = match (ip, port) {
            (None, 0) => None,
            (Some(ip), 1..) => Some(SocketAddr::new(ip, port)),
            _ => return None,
        };
        Some(SavedLeg {
            in_progress,
            completed,
            address,
            local: self.ip()?,
            silent: self.span()?,
            packets: self.u64()?,
            bytes: self.u64()?,
        })
    }
}
