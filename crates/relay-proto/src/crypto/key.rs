//! Keys as the relay protocol carries them: 32 raw bytes, X25519.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    crypto::agreement::{Agreement, SharedBox},
    session::shard::ShardKey,
};

/// Length of every key on the wire, in bytes.
pub const KEY_LEN: usize = 32;

/// Public half of a disco key: names a client, or the relay, within the disco protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiscoPublic(pub [u8; KEY_LEN]);

impl fmt::Debug for DiscoPublic {
    /// Prints `d:` and the first eight bytes in hex, as Tailscale's short form does
    /// (`key.DiscoPublic.ShortString`).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("d:")?;
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Display for DiscoPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Private half of a disco key. Never printed; wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DiscoSecret([u8; KEY_LEN]);

impl DiscoSecret {
    /// A secret from 32 random bytes; clamped as X25519 asks when used.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The matching public key.
    pub fn public(&self) -> DiscoPublic {
        let public = self.to_private().compute_public_key();
        let public = public.expect("every secret has a public key");
        let public = public.as_ref().try_into();
        DiscoPublic(public.expect("keys have 32 bytes"))
    }

    /// The secret itself, for those who must keep it.
    pub const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    pub(crate) fn shard_key(&self) -> ShardKey {
        ShardKey::new(&self.0)
    }

    /// The box of both keys, which seals and opens between them.
    pub fn shared_with(&self, other: DiscoPublic) -> SharedBox {
        Agreement::new(self).with(other)
    }

    pub(crate) fn to_private(&self) -> PrivateKey {
        PrivateKey::from_private_key(&X25519, &self.0).expect("any 32 bytes are a secret")
    }
}

impl fmt::Debug for DiscoSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscoSecret(..)")
    }
}

/// WireGuard public key of a tailnet node: names the sender of a DERP packet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; KEY_LEN]);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nodekey:")?;
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The unordered pair of clients that share a session, kept sorted by bytes
/// (`key.NewSortedPairOfDiscoPublic`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair([DiscoPublic; 2]);

impl Pair {
    /// The pair of `a` and `b`, in either order.
    pub fn new(a: DiscoPublic, b: DiscoPublic) -> Self {
        if a < b { Self([a, b]) } else { Self([b, a]) }
    }

    /// Both keys, smaller first.
    pub const fn keys(&self) -> [DiscoPublic; 2] {
        self.0
    }

    /// The side that `key` has in this pair.
    pub fn side_of(&self, key: DiscoPublic) -> Option<Side> {
        match () {
            () if self.0[0] == key => Some(Side::A),
            () if self.0[1] == key => Some(Side::B),
            () => None,
        }
    }

    /// The key on `side`.
    pub const fn key(&self, side: Side) -> DiscoPublic {
        self.0[side.index()]
    }
}

/// One of the two legs of a session: `A` has the smaller disco key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The smaller disco key.
    A,
    /// The greater disco key.
    B,
}

impl Side {
    /// The opposite leg.
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}
