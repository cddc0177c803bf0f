//! The filter from which another data path learns which VNIs may have a session, so that it can drop
//! datagrams of all others.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::geneve::Vni;

/// Bits for each session that a relay may have. At the limit, one in so many VNIs without a session
/// looks as if it had one.
const BITS_PER_SESSION: usize = 16;
/// The least number of bits: with fewer, too many VNIs share a bit and must be looked up when a
/// session ends.
const LEAST_BITS: usize = 1 << 18;
/// The greatest number of bits: one for each VNI.
const MOST_BITS: usize = Vni::MAX.number() as usize + 1;

/// A bitmap of VNIs; all VNIs with the same low bits share a bit.
///
/// A bit is set before anyone learns of a session with such a VNI, and stays set until the last of
/// these sessions has ended. The low bits of a VNI name its shard, so each bit has one core that
/// changes it.
#[derive(Debug, Clone, Copy)]
pub struct VniFilter<'a>(&'a [AtomicU64]);

impl<'a> VniFilter<'a> {
    /// The number of words that this many sessions need; a power of two.
    pub fn words(max_sessions: usize) -> usize {
        let bits = max_sessions.saturating_mul(BITS_PER_SESSION);
        let bits = bits.clamp(LEAST_BITS, MOST_BITS).next_power_of_two();
        bits / u64::BITS as usize
    }

    /// A filter in these words: the bit of a VNI is number `vni % 64` of the word number
    /// `vni / 64 % words.len()`.
    ///
    /// # Panics
    /// If the number of words is no power of two.
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        assert!(words.len().is_power_of_two(), "low bits name a word");
        Self(words)
    }

    /// Returns whether a session may have this VNI.
    pub fn contains(&self, vni: Vni) -> bool {
        let (word, bit) = self.bit(vni);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// Clears all bits: no VNI has a session.
    pub(crate) fn clear(&self) {
        for word in self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Records that a session gets this VNI.
    pub(crate) fn insert(&self, vni: Vni) {
        let (word, bit) = self.bit(vni);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    /// Records that the session with this VNI has ended; `is_used` says whether another VNI has one.
    pub(crate) fn remove(&self, vni: Vni, is_used: impl Fn(Vni) -> bool) {
        let bits = self.0.len() * u64::BITS as usize;
        let same_bit = vni.number() as usize % bits..MOST_BITS;
        let mut same_bit = same_bit.step_by(bits);
        if !same_bit.any(|number| Vni::new(number as u32).is_some_and(&is_used)) {
            let (word, bit) = self.bit(vni);
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    const fn bit(&self, vni: Vni) -> (&'a AtomicU64, u64) {
        let number = vni.number() as usize;
        let word = number / u64::BITS as usize % self.0.len();
        (&self.0[word], 1 << (number % u64::BITS as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_suffice_for_every_limit() {
        assert_eq!(VniFilter::words(1), 1 << 12);
        assert_eq!(VniFilter::words(1 << 16), 1 << 14);
        assert_eq!(VniFilter::words((1 << 16) + 1), 1 << 15);
        assert_eq!(VniFilter::words(usize::MAX), 1 << 18);
    }
}
