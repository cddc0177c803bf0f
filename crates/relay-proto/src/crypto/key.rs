//! Keys of the relay protocol: 32 raw bytes, X25519.

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The length of every key on the wire, in bytes.
pub const KEY_LEN: usize = 32;

/// The public half of a disco key: the name of a client, or of the relay, in the disco protocol.
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

/// The private half of a disco key; never printed, and wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DiscoSecret([u8; KEY_LEN]);

impl DiscoSecret {
    /// The secret with these 32 random bytes; X25519 clamps them on use.
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

    /// The 32 bytes of the secret.
    pub const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
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

/// The WireGuard public key of a tailnet node: the name of a DERP packet's sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; KEY_LEN]);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nodekey:")?;
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The unordered pair of clients that share a session, sorted by bytes
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

    /// The side of `key` in this pair.
    pub fn side_of(&self, key: DiscoPublic) -> Option<Side> {
        match () {
            () if self.0[0] == key => Some(Side::A),
            () if self.0[1] == key => Some(Side::B),
            () => None,
        }
    }

    /// The disco key of the client on `side`.
    pub const fn key(&self, side: Side) -> DiscoPublic {
        self.0[side.index()]
    }
}

/// A side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The client with the smaller disco key.
    A,
    /// The client with the greater disco key.
    B,
}

impl Side {
    /// The opposite side.
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
