//! Bandwidth limits: one for each session, and one for all sessions of a relay.
//!
//! Each is a bucket that is kept as one number, the time at which it would be empty of what it tat
//! (the generic cell rate algorithm), so it takes no tick and no second value that could disagree.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    config::Config,
    time::{Timestamp, nanoseconds},
    verdict::DropReason,
    wire::geneve::Vni,
};

/// Shortest time whose data may come at once.
const BURST: Duration = Duration::from_millis(50);
/// Data that may come at once however low the limit: more than one super-datagram.
const LEAST_BURST: u64 = 128 << 10;

/// How fast data may flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    bytes_per_second: NonZero<u64>,
    burst: u64,
}

impl RateLimit {
    /// What may come at once is derived: data of 50 ms, and never less than 128 KiB.
    pub fn new(bytes_per_second: NonZero<u64>) -> Self {
        let mut rate_limit = Self {
            bytes_per_second,
            burst: 0,
        };
        rate_limit.burst = rate_limit.cost(LEAST_BURST).max(nanoseconds(BURST));
        rate_limit
    }

    /// Bytes of UDP payload in a second.
    pub const fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.get()
    }

    /// How long all that may come at once takes at this rate_limit.
    pub const fn burst(&self) -> Duration {
        Duration::from_nanos(self.burst)
    }

    /// Nanoseconds that `bytes` take.
    fn cost(&self, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Until when a bucket that tat until `tat` tat with `bytes` more; `None` when that would be
    /// too much at once.
    fn take(&self, tat: u64, bytes: u64, now: u64) -> Option<u64> {
        let after = tat.max(now).saturating_add(self.cost(bytes));
        (after - now <= self.burst).then_some(after)
    }
}

/// What a relay tat to its limit, kept where another data path keeps it, too.
#[derive(Debug, Clone, Copy)]
pub struct SharedTat {
    /// The other's time, in nanoseconds, at which nothing is owed. Anyone may move it on.
    pub tat: &'static AtomicU64,
    /// What must be added to nanoseconds of the relay's time to get the other's; wraps around.
    pub ahead: u64,
}

#[derive(Debug)]
enum Tat {
    Own(AtomicU64),
    Shared(SharedTat),
}

/// The limit of a relay, shared by its cores.
#[derive(Debug)]
pub(crate) struct RelayBandwidth {
    rate_limit: Option<RateLimit>,
    tat: Tat,
}

impl RelayBandwidth {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            rate_limit: config.max_bytes_per_second.map(RateLimit::new),
            tat: Tat::Own(AtomicU64::new(0)),
        }
    }

    pub(crate) const fn share(&mut self, tat: SharedTat) {
        self.tat = Tat::Shared(tat);
    }

    fn take(&self, bytes: u64, now: u64) -> Result<(), DropReason> {
        let Some(rate_limit) = self.rate_limit else {
            return Ok(());
        };
        let (tat, ahead) = match &self.tat {
            Tat::Own(tat) => (tat, 0),
            Tat::Shared(shared) => (shared.tat, shared.ahead),
        };
        let now = now.wrapping_add(ahead);
        let next = |tat| rate_limit.take(tat, bytes, now);
        let taken = tat.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.map(|_| ()).map_err(|_| DropReason::RelayRate)
    }
}

/// The limits as one core keeps them. There is one of these only when there is a limit.
#[derive(Debug)]
pub(crate) struct SessionBandwidth {
    session: Option<RateLimit>,
    /// Of sessions that have had data.
    tat: HashMap<Vni, u64>,
}

impl SessionBandwidth {
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let session = config.max_bytes_per_second_per_session.map(RateLimit::new);
        (session.is_some() || config.max_bytes_per_second.is_some()).then(|| Self {
            session,
            tat: HashMap::new(),
        })
    }

    /// Whether `bytes` of a session may pass now, and takes them into account if so.
    pub(crate) fn take(
        &mut self,
        vni: Vni,
        bytes: u64,
        now: Timestamp,
        relay: &RelayBandwidth,
    ) -> Result<(), DropReason> {
        let now = nanoseconds(now.since_start());
        let Some(rate_limit) = self.session else {
            return relay.take(bytes, now);
        };
        let tat = self.tat.entry(vni).or_default();
        let after = rate_limit.take(*tat, bytes, now);
        let after = after.ok_or(DropReason::SessionRate)?;
        relay.take(bytes, now)?;
        *tat = after;
        Ok(())
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget(&mut self, vni: Vni) {
        self.tat.remove(&vni);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn what_another_path_owes_counts_in_its_own_time() {
        static TAT: AtomicU64 = AtomicU64::new(0);
        const MEBIBYTE: u64 = 1 << 20;
        let config = Config {
            max_bytes_per_second: NonZero::new(MEBIBYTE),
            ..Config::default()
        };
        let mut rate = RelayBandwidth::new(&config);
        // The other's clock was started 100 s after this one.
        let ahead = 0_u64.wrapping_sub(100_000_000_000);
        rate.share(SharedTat { tat: &TAT, ahead });
        let now = 200_000_000_000;
        assert!(rate.take(LEAST_BURST, now).is_ok());
        assert_eq!(
            TAT.load(Ordering::Relaxed),
            100_000_000_000 + 125_000_000,
            "128 KiB take an eighth of a second"
        );
        assert_eq!(rate.take(1, now), Err(DropReason::RelayRate));
        // The other path has used up the next second.
        TAT.fetch_add(1_000_000_000, Ordering::Relaxed);
        assert!(rate.take(1, now + 1_000_000_000).is_err());
        assert!(rate.take(1, now + 1_000_001_000).is_ok());
    }
}
