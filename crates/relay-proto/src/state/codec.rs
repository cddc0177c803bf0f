//! Writer and reader of the bytes of a [`State`](super::State).

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use zeroize::Zeroizing;

use crate::{
    crypto::key::{DiscoPublic, KEY_LEN, NodeKey, Pair},
    session::{
        challenge::SavedChallenges,
        saved::{SavedLeg, SavedSession},
    },
    time::nanoseconds,
    wire::{disco::Generation, geneve::Vni},
};

/// Largest number of bytes of the secrets of a core.
pub(super) const CHALLENGES_LEN: usize = 32 + (1 + 32) + 8;
/// Number of bytes of a session.
pub(super) const SESSION_LEN: usize = 4 + 8 + 3 * KEY_LEN + 8 + 2 * LEG_LEN;
const LEG_LEN: usize = 4 + 4 + (16 + 2) + 16 + 3 * 8;

/// The bytes written so far; they hold secrets, so they are wiped when dropped.
pub(super) struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// A writer with room for this many bytes: growing would leave copies of secrets behind.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    pub(super) fn written(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        debug_assert!(
            bytes.len() <= self.0.capacity() - self.0.len(),
            "there is room"
        );
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.bytes(&number.to_be_bytes());
    }

    pub(super) fn u64(&mut self, number: u64) {
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

    pub(super) fn challenges(&mut self, saved: &SavedChallenges) {
        self.bytes(&*saved.current);
        match &saved.previous {
            None => self.bytes(&[0]),
            Some(previous) => {
                self.bytes(&[1]);
                self.bytes(&**previous);
            }
        }
        self.span(saved.age);
    }

    pub(super) fn session(&mut self, session: &SavedSession) {
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

/// The bytes that are left to read.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn span(&mut self) -> Option<Duration> {
        self.u64().map(Duration::from_nanos)
    }

    fn ip(&mut self) -> Option<Option<IpAddr>> {
        let ip = Ipv6Addr::from(self.array::<16>()?);
        Some((!ip.is_unspecified()).then(|| ip.to_canonical()))
    }

    pub(super) fn challenges(&mut self) -> Option<SavedChallenges> {
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

    pub(super) fn session(&mut self) -> Option<SavedSession> {
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
