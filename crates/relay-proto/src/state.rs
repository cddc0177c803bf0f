//! The state of a relay that outlives its process: keys, secrets and sessions, as bytes that only the
//! same relay accepts.
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
//! Integers are big-endian, times are ages in nanoseconds.

mod codec;

use std::{collections::BTreeSet, time::Duration};

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::codec::{Reader, Writer};
use crate::{
    config::Keys,
    crypto::key::{DiscoSecret, KEY_LEN},
    session::{
        challenge::SavedChallenges,
        saved::SavedSession,
        shard::{Shard, ShardKey},
    },
    wire::geneve::Vni,
};

const MAGIC: &[u8; 4] = b"PRST";
const VERSION: u16 = 1;
const MAC_LEN: usize = 32;
/// Number of bytes besides those of cores and sessions.
const FRAME_LEN: usize = MAGIC.len() + 2 + 2 * KEY_LEN + 8 + 2 + 4 + MAC_LEN;

/// The keys, secrets and sessions of all cores of a relay at one moment.
#[derive(Debug, Clone)]
pub struct State {
    /// The relay's disco keys.
    pub keys: Keys,
    /// A LamportID greater than any that was given out.
    pub next_lamport: u64,
    pub(crate) challenges: Vec<SavedChallenges>,
    pub(crate) sessions: Vec<SavedSession>,
}

/// The reason why bytes are not accepted as a relay's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// The bytes do not begin with the magic of a state.
    NotState,
    /// The state has a version that this release does not read.
    Version(u16),
    /// The state is damaged, truncated, or sealed with the key of another relay.
    Foreign,
    /// The state is authentic and contradicts itself.
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
    /// The number of sessions, open or not.
    pub const fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns whether there is no session.
    pub const fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The number of cores from which the state was exported.
    pub const fn cores(&self) -> usize {
        self.challenges.len()
    }

    /// Adds the time during which no relay ran to all ages.
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

    /// Shortens silences by what another data path has heard: `of` returns the time since it last
    /// heard from leg A and leg B of a session, or `None` if it does not know the session.
    pub fn record_silence(&mut self, of: impl Fn(Vni) -> Option<[Duration; 2]>) {
        for session in &mut self.sessions {
            let silences = of(session.vni).unwrap_or([Duration::MAX; 2]);
            for (leg, silence) in session.legs.iter_mut().zip(silences) {
                leg.silent = leg.silent.min(silence);
            }
        }
    }

    /// Adds the export of another core of the same relay.
    pub fn append(&mut self, other: Self) {
        self.next_lamport = self.next_lamport.max(other.next_lamport);
        self.challenges.extend(other.challenges);
        self.sessions.extend(other.sessions);
    }

    /// The bytes of the state, authenticated with `key`.
    pub fn encode(&self, key: &[u8; 32]) -> Zeroizing<Vec<u8>> {
        let mut out = Writer::with_capacity(self.largest_len());
        out.bytes(MAGIC);
        out.bytes(&VERSION.to_be_bytes());
        out.bytes(self.keys.node.bytes());
        out.bytes(self.keys.server.bytes());
        out.u64(self.next_lamport);
        out.bytes(&(self.challenges.len() as u16).to_be_bytes());
        for saved in &self.challenges {
            out.challenges(saved);
        }
        out.u32(self.sessions.len() as u32);
        for session in &self.sessions {
            out.session(session);
        }
        let mac = mac(key, out.written());
        out.bytes(&mac);
        out.finish()
    }

    /// Largest number of bytes of a state with so many cores and sessions.
    const fn largest_len(&self) -> usize {
        FRAME_LEN + self.cores() * codec::CHALLENGES_LEN + self.len() * codec::SESSION_LEN
    }

    /// Reads what [`State::encode`] wrote with the same `key`.
    ///
    /// # Errors
    /// The bytes are not what this release wrote with `key`; nothing of them is used then.
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
        Self::read(&mut Reader::new(body)).ok_or(StateError::Contradiction)
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
        (body.is_empty() && state.is_consistent()).then_some(state)
    }

    /// Returns whether VNIs and pairs are unique, LamportIDs are in range, and each VNI has the shard of
    /// its pair.
    fn is_consistent(&self) -> bool {
        let shards = ShardKey::of(&self.keys.server);
        let (mut vnis, mut pairs) = (BTreeSet::new(), BTreeSet::new());
        self.sessions.iter().all(|session| {
            let [a, b] = session.pair.keys();
            a != b
                && session.lamport < self.next_lamport
                // Datagrams are steered by the VNI, requests by the pair: if they disagreed, the core
                // that answers requests would never see the datagrams.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::key::{DiscoPublic, NodeKey, Pair},
        session::saved::SavedLeg,
        wire::disco::Generation,
    };

    fn challenges() -> SavedChallenges {
        SavedChallenges {
            current: Zeroizing::new([1; 32]),
            previous: Some(Zeroizing::new([2; 32])),
            age: Duration::ZERO,
        }
    }

    fn session(number: u32) -> SavedSession {
        let leg = SavedLeg {
            in_progress: Generation(0),
            completed: Generation(0),
            address: None,
            local: None,
            silent: Duration::ZERO,
            packets: 0,
            bytes: 0,
        };
        SavedSession {
            vni: Vni::new(number).expect("a VNI"),
            lamport: 0,
            pair: Pair::new(DiscoPublic([3; 32]), DiscoPublic([4; 32])),
            owner: NodeKey([5; 32]),
            age: Duration::ZERO,
            legs: [leg; 2],
        }
    }

    #[test]
    fn bytes_are_written_without_growing() {
        for (cores, sessions) in [(0, 0), (1, 0), (8, 0), (256, 1), (1, 100)] {
            let state = State {
                keys: Keys {
                    node: DiscoSecret::from_bytes([6; 32]),
                    server: DiscoSecret::from_bytes([7; 32]),
                },
                next_lamport: 1,
                challenges: vec![challenges(); cores],
                sessions: (1..=sessions).map(session).collect(),
            };
            let bytes = state.encode(&[8; 32]);
            assert_eq!(bytes.len(), state.largest_len());
            // A vector that grows gets more room than it needs.
            assert_eq!(bytes.capacity(), bytes.len());
        }
    }
}
