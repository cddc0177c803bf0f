//! Shards: the parts into which the sessions of a relay are divided, so that several cores can share
//! the work.
//!
//! A pair of clients always has the same shard, and the low bits of its session's VNI name it. Each
//! core serves some of the shards, and whoever steers datagrams to cores needs nothing but the VNI.
//! The number of shards does not depend on the number of cores.

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    crypto::key::{DiscoSecret, Pair},
    wire::geneve::Vni,
};

/// Domain of the MAC that keys shards. Saved sessions keep their shards across releases, so these
/// bytes never change; `lane` is an earlier name of a shard.
const DOMAIN: &[u8] = b"peerrelay lane";

/// One of [`Shard::COUNT`] shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u8);

impl Shard {
    /// The number of shards; a power of two.
    pub const COUNT: u32 = 64;

    /// The shard of a session.
    pub const fn of(vni: Vni) -> Self {
        Self((vni.number() % Self::COUNT) as u8)
    }

    /// The shard's number, less than [`Shard::COUNT`].
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The VNI in this shard whose other bits are those of `random`.
    pub(crate) const fn vni(self, random: u32) -> Option<Vni> {
        let high = random & Vni::MAX.number() & !(Self::COUNT - 1);
        Vni::new(high | self.0 as u32)
    }
}

/// The key that assigns pairs to shards: without it, nobody learns bits of a VNI from the keys of its
/// clients.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct ShardKey([u8; 32]);

impl ShardKey {
    /// The key of the relay whose server key is `secret`.
    pub(crate) fn of(secret: &DiscoSecret) -> Self {
        Self(mac(secret.bytes(), DOMAIN).into())
    }

    /// The shard of a pair.
    pub(crate) fn shard(&self, pair: &Pair) -> Shard {
        let [a, b] = pair.keys();
        let hash: [u8; 32] = mac(&self.0, &[a.0, b.0].concat()).into();
        Shard(hash[0] % Shard::COUNT as u8)
    }
}

fn mac(key: &[u8; 32], message: &[u8]) -> blake2::digest::Output<Blake2sMac256> {
    let mut mac = Blake2sMac256::new_from_slice(key).expect("32 bytes are a valid key");
    mac.update(message);
    mac.finalize_fixed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::key::DiscoPublic;

    fn shard_key() -> ShardKey {
        ShardKey::of(&DiscoSecret::from_bytes([7; 32]))
    }

    #[test]
    fn vni_of_a_shard_names_the_shard() {
        for number in 0..Shard::COUNT as u8 {
            let shard = Shard(number);
            for random in [1 << 6, 0x00ab_cdef, u32::MAX] {
                assert_eq!(shard.vni(random).map(Shard::of), Some(shard));
            }
        }
        assert_eq!(Shard(0).vni(63), None, "zero is no VNI");
    }

    #[test]
    fn pair_keeps_its_shard_and_pairs_spread_over_all() {
        let key = shard_key();
        let pair = |n: u16| {
            let mut b = [0; 32];
            b[..2].copy_from_slice(&n.to_be_bytes());
            Pair::new(DiscoPublic([1; 32]), DiscoPublic(b))
        };
        let shards: std::collections::BTreeSet<_> =
            (0..1000).map(|n| key.shard(&pair(n))).collect();
        assert_eq!(shards.len(), Shard::COUNT as usize);
        assert_eq!(key.shard(&pair(9)), shard_key().shard(&pair(9)));
    }
}
