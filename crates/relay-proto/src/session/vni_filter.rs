//! Which VNIs may have a session, for another data path that turns away datagrams of those that
//! have none.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::geneve::Vni;

/// Bits for each session that a relay may have: at the limit, one in so many VNIs without a session
/// looks as if it had one.
const SPARSE: usize = 16;
/// With fewer, too many VNIs would have to be looked up when a session ends.
const LEAST_BITS: usize = 1 << 18;
/// A bit for each VNI.
const MOST_BITS: usize = Vni::MAX.number() as usize + 1;

/// A bit for each VNI, shared by all that have the same low bits. It is set before anyone learns of
/// a session with such a VNI, and until the last of these has ended.
///
/// The low bits of a VNI are its shard's, so each bit is one core's to change.
#[derive(Debug, Clone, Copy)]
pub struct VniFilter(&'static [AtomicU64]);

impl VniFilter {
    /// How many words are needed for this many sessions; a power of two.
    pub fn words(max_sessions: usize) -> usize {
        let bits = max_sessions.saturating_mul(SPARSE);
        let bits = bits.clamp(LEAST_BITS, MOST_BITS).next_power_of_two();
        bits / u64::BITS as usize
    }

    /// The bit of a VNI is number `vni % 64` of the word number `vni / 64 % words.len()`.
    ///
    /// # Panics
    /// Their number is no power of two.
    pub const fn new(words: &'static [AtomicU64]) -> Self {
        assert!(words.len().is_power_of_two(), "low bits name a word");
        Self(words)
    }

    /// Whether a session may have this VNI.
    pub fn contains(&self, vni: Vni) -> bool {
        let (word, bit) = self.place(vni);
        word.load(Ordering::Relaxed) & bit != 0
    }

    /// No VNI has a session.
    pub(crate) fn clear(&self) {
        for word in self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A session gets this VNI.
    pub(crate) fn insert(&self, vni: Vni) {
        let (word, bit) = self.place(vni);
        word.fetch_or(bit, Ordering::Relaxed);
    }

    /// The session with this VNI has ended; `has` says whether another VNI has one.
    pub(crate) fn remove(&self, vni: Vni, has: impl Fn(Vni) -> bool) {
        let bits = self.0.len() * u64::BITS as usize;
        let same = vni.number() as usize % bits..MOST_BITS;
        let mut same = same.step_by(bits).filter_map(|n| Vni::new(n as u32));
        if !same.any(has) {
            let (word, bit) = self.place(vni);
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    const fn place(&self, vni: Vni) -> (&'static AtomicU64, u64) {
        let number = vni.number() as usize;
        let word = number / u64::BITS as usize % self.0.len();
        (&self.0[word], 1 << (number % u64::BITS as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_limit() {
        assert_eq!(VniFilter::words(1), 1 << 12);
        assert_eq!(VniFilter::words(1 << 16), 1 << 14);
        assert_eq!(VniFilter::words((1 << 16) + 1), 1 << 15);
        assert_eq!(VniFilter::words(usize::MAX), 1 << 18);
    }
}
