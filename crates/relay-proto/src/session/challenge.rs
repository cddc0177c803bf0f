//! The challenge of the bind handshake: a MAC of the relay over the address at which the client must
//! receive it (`udprelay.blakeMACFromBindMsg`).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use rand_chacha::{ChaCha20Rng, rand_core::RngCore};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{time::Timestamp, wire::disco::BindCommon};

/// A BLAKE2s-256 MAC.
pub(crate) type Mac = [u8; 32];

#[derive(Zeroize, ZeroizeOnDrop)]
struct Secret([u8; 32]);

impl Secret {
    fn random(rng: &mut ChaCha20Rng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self(secret)
    }

    fn mac(&self, bind: &BindCommon, source: SocketAddr) -> Mac {
        let mut mac = Blake2sMac256::new_from_slice(&self.0).expect("32 bytes are a valid key");
        mac.update(&bind.vni.to_be_bytes());
        mac.update(&bind.generation.0.to_be_bytes());
        mac.update(&bind.remote.0);
        // No client reads the MAC, so this encoding of the address need not be that of Go.
        match source.ip() {
            IpAddr::V4(v4) => mac.update(&v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => mac.update(&v6.octets()),
        }
        mac.update(&source.port().to_be_bytes());
        mac.finalize_fixed().into()
    }
}

/// The saved form of [`Challenges`].
#[derive(Debug, Clone)]
pub(crate) struct SavedChallenges {
    pub(crate) current: Zeroizing<[u8; 32]>,
    pub(crate) previous: Option<Zeroizing<[u8; 32]>>,
    pub(crate) age: Duration,
}

/// The current MAC secret and its predecessor: an answer is valid for at least one rotation period
/// and less than two.
pub(crate) struct Challenges {
    current: Secret,
    previous: Option<Secret>,
    rotated: Timestamp,
    period: Duration,
}

impl Challenges {
    pub(crate) fn new(rng: &mut ChaCha20Rng, period: Duration, now: Timestamp) -> Self {
        Self {
            current: Secret::random(rng),
            previous: None,
            rotated: now,
            period,
        }
    }

    pub(crate) fn save(&self, now: Timestamp) -> SavedChallenges {
        SavedChallenges {
            current: Zeroizing::new(self.current.0),
            previous: self.previous.as_ref().map(|p| Zeroizing::new(p.0)),
            age: now.since(self.rotated),
        }
    }

    /// Replaces the secrets with saved ones.
    pub(crate) fn restore(&mut self, saved: &SavedChallenges, now: Timestamp) {
        self.current = Secret(*saved.current);
        self.previous = saved.previous.as_ref().map(|p| Secret(**p));
        self.rotated = now.before(saved.age);
    }

    /// Replaces secrets that are too old; called before every use.
    ///
    /// A secret's age counts from the moment at which it was due, not from the use that rotated it:
    /// otherwise it would be valid for too long.
    pub(crate) fn rotate(&mut self, rng: &mut ChaCha20Rng, now: Timestamp) {
        let age = now.since(self.rotated);
        if age < self.period {
            return;
        }
        let current = std::mem::replace(&mut self.current, Secret::random(rng));
        let is_recent = age < 2 * self.period;
        self.previous = is_recent.then_some(current);
        self.rotated = if is_recent {
            self.rotated + self.period
        } else {
            now
        };
    }

    /// The challenge for a bind that came from `source`.
    pub(crate) fn issue(&self, bind: &BindCommon, source: SocketAddr) -> Mac {
        self.current.mac(bind, source)
    }

    /// Returns whether `answer` carries a challenge that was issued for `source`. The comparison takes
    /// constant time, so that its duration tells an attacker nothing about a valid challenge.
    pub(crate) fn verify(&self, answer: &BindCommon, source: SocketAddr) -> bool {
        std::iter::once(&self.current)
            .chain(&self.previous)
            .any(|secret| secret.mac(answer, source).ct_eq(&answer.challenge).into())
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use crate::{crypto::key::DiscoPublic, wire::disco::Generation};

    const PERIOD: Duration = Duration::from_secs(120);

    #[test]
    fn challenge_outlives_one_rotation_and_not_two() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut challenges = Challenges::new(&mut rng, PERIOD, Timestamp::START);
        let source = SocketAddr::from(([203, 0, 113, 9], 41641));
        let mut answer = BindCommon::first(9, 1, DiscoPublic([3; 32]));
        answer.challenge = challenges.issue(&answer, source);
        assert!(challenges.verify(&answer, source));
        assert!(!challenges.verify(&answer, SocketAddr::from(([203, 0, 113, 9], 41642))));
        assert!(!challenges.verify(
            &BindCommon {
                generation: Generation(2),
                ..answer
            },
            source
        ));

        let first = Timestamp::START + PERIOD;
        challenges.rotate(&mut rng, first);
        assert!(challenges.verify(&answer, source));
        challenges.rotate(&mut rng, first + PERIOD);
        assert!(!challenges.verify(&answer, source));
    }

    #[test]
    fn secrets_unused_for_two_periods_are_both_replaced() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        let mut challenges = Challenges::new(&mut rng, PERIOD, Timestamp::START);
        challenges.rotate(&mut rng, Timestamp::START + 3 * PERIOD);
        assert!(challenges.previous.is_none());
    }
}
