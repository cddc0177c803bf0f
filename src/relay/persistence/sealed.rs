//! Sealed state: bytes that only the same relay can read, and only until the machine restarts.
//!
//! ```text
//! time since boot u64, nanoseconds | state (relay_proto::State), keyed over node key, port, boot and time
//! ```

use std::{fs, io, time::Duration};

use relay_proto::{State, StateError};
use sha2::{Digest, Sha256};

use crate::relay::socket_path::RestoredState;

/// Key that seals the state of a relay with one identity and port.
#[derive(Clone)]
pub struct SealKey([u8; 32]);

/// Reason for which sealed bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The bytes end before the state begins.
    #[error("it is cut off")]
    CutOff,
    /// The state is of another boot, relay or version, or is damaged.
    #[error("{0}")]
    State(#[from] StateError),
    /// The time since boot cannot be read.
    #[error("failed to read the time since boot: {0}")]
    Clock(#[from] io::Error),
}

impl SealKey {
    /// Derives the key of a relay from its node key and its configured port. The port is a part of it
    /// because clients have bound their sessions there: at another port, a restored session would be
    /// given out again although no client reaches it.
    pub fn new(node_secret: &[u8; 32], port: u16) -> Self {
        let hash = Sha256::new().chain_update("peerrelay sessions");
        let hash = hash.chain_update(node_secret);
        Self(hash.chain_update(port.to_be_bytes()).finalize().into())
    }

    pub(super) fn seal(&self, state: &State) -> io::Result<Vec<u8>> {
        let now = Moment::now()?;
        let mut bytes = now.since_boot.to_be_bytes().to_vec();
        bytes.extend_from_slice(&state.encode(&self.at(&now)));
        Ok(bytes)
    }

    pub(super) fn open(&self, bytes: &[u8]) -> Result<RestoredState, Refusal> {
        let (time, sealed) = bytes.split_first_chunk().ok_or(Refusal::CutOff)?;
        let now = Moment::now()?;
        let then = Moment {
            since_boot: u64::from_be_bytes(*time),
            ..now.clone()
        };
        let state = State::decode(sealed, &self.at(&then))?;
        let away = Duration::from_nanos(now.since_boot.saturating_sub(then.since_boot));
        Ok(RestoredState { state, away })
    }

    fn at(&self, moment: &Moment) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.0)
            .chain_update(&moment.boot)
            // A changed time gives another key, so nobody can make saved sessions younger than they
            // are.
            .chain_update(moment.since_boot.to_be_bytes())
            .finalize()
            .into()
    }
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// A point in time on this machine, which includes its sleep.
#[derive(Clone)]
struct Moment {
    boot: String,
    since_boot: u64,
}

impl Moment {
    fn now() -> io::Result<Self> {
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds = uptime.split(' ').next().and_then(|text| text.parse().ok());
        let seconds: f64 = seconds.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?,
            since_boot: (seconds * 1e9) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::check;
    use fuzz_edits::{edited, edits};
    use relay_proto::{Config, DiscoSecret, Keys, Relay, Timestamp};

    use super::*;

    #[test]
    fn sealed_bytes_open_as_they_are_and_in_no_other_way() {
        let keys = Keys {
            node: DiscoSecret::from_bytes([1; 32]),
            server: DiscoSecret::from_bytes([2; 32]),
        };
        let relay = Relay::new(Config::default(), keys, [3; 32], 1, Timestamp::START);
        let key = SealKey::new(&[4; 32], 40_000);
        let whole = key.seal(&relay.export(Timestamp::START)).unwrap();
        for other in [
            SealKey::new(&[5; 32], 40_000),
            SealKey::new(&[4; 32], 40_001),
        ] {
            assert!(other.open(&whole).is_err());
        }
        let check = check!().with_iterations(2_000).with_generator(edits());
        check.for_each(|edits| {
            let bytes = edited(&whole, edits);
            assert_eq!(key.open(&bytes).is_ok(), bytes == whole);
        });
    }
}
