//! Bandwidth limits: one for each session, and one for all sessions of a relay.
//!
//! Each is a bucket that is kept as one number, the time at which it would be empty of what it owes
//! (the generic cell rate algorithm), so it takes no tick and no second value that could disagree.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    config::Config,
    geneve::Vni,
    time::{Timestamp, nanoseconds},
    verdict::DropReason,
};

/// Shortest time whose data may come at once.
const BURST: Duration = Duration::from_millis(50);
/// Data that may come at once however low the limit: more than one super-datagram.
const LEAST_BURST: u64 = 128 << 10;

/// How fast data may flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    bytes_per_second: NonZero<u64>,
    burst: u64,
}

impl Pace {
    /// What may come at once is derived: data of 50 ms, and never less than 128 KiB.
    pub fn new(bytes_per_second: NonZero<u64>) -> Self {
        let mut pace = Self {
            bytes_per_second,
            burst: 0,
        };
        pace.burst = pace.cost(LEAST_BURST).max(nanoseconds(BURST));
        pace
    }

    /// Bytes of UDP payload in a second.
    pub const fn bytes_per_second(&self) -> u64 {
        self.bytes_per_second.get()
    }

    /// How long all that may come at once takes at this pace.
    pub const fn burst(&self) -> Duration {
        Duration::from_nanos(self.burst)
    }

    /// Nanoseconds that `bytes` take.
    fn cost(&self, bytes: u64) -> u64 {
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Until when a bucket that owes until `owes` owes with `bytes` more; `None` when that would be
    /// too much at once.
    fn take(&self, owes: u64, bytes: u64, now: u64) -> Option<u64> {
        let after = owes.max(now).saturating_add(self.cost(bytes));
        (after - now <= self.burst).then_some(after)
    }
}

/// What a relay owes to its limit, kept where another data path keeps it, too.
#[derive(Debug, Clone, Copy)]
pub struct SharedDebt {
    /// The other's time, in nanoseconds, at which nothing is owed. Anyone may move it on.
    pub owes: &'static AtomicU64,
    /// What must be added to nanoseconds of the relay's time to get the other's; wraps around.
    pub ahead: u64,
}

#[derive(Debug)]
enum Debt {
    Own(AtomicU64),
    Shared(SharedDebt),
}

/// The limit of a relay, shared by its cores.
#[derive(Debug)]
pub(crate) struct RelayRate {
    pace: Option<Pace>,
    debt: Debt,
}

impl RelayRate {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            pace: config.max_bytes_per_second.map(Pace::new),
            debt: Debt::Own(AtomicU64::new(0)),
        }
    }

    pub(crate) const fn share(&mut self, debt: SharedDebt) {
        self.debt = Debt::Shared(debt);
    }

    fn take(&self, bytes: u64, now: u64) -> Result<(), DropReason> {
        let Some(pace) = self.pace else { return Ok(()) };
        let (owes, ahead) = match &self.debt {
            Debt::Own(owes) => (owes, 0),
            Debt::Shared(shared) => (shared.owes, shared.ahead),
        };
        let now = now.wrapping_add(ahead);
        let next = |owes| pace.take(owes, bytes, now);
        let taken = owes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.map(|_| ()).map_err(|_| DropReason::RelayRate)
    }
}

/// The limits as one core keeps them. There is one of these only when there is a limit.
#[derive(Debug)]
pub(crate) struct Rates {
    session: Option<Pace>,
    /// Of sessions that have had data.
    owes: HashMap<Vni, u64>,
}

impl Rates {
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let session = config.max_bytes_per_second_per_session.map(Pace::new);
        (session.is_some() || config.max_bytes_per_second.is_some()).then(|| Self {
            session,
            owes: HashMap::new(),
        })
    }

    /// Whether `bytes` of a session may pass now, and takes them into account if so.
    pub(crate) fn take(
        &mut self,
        vni: Vni,
        bytes: u64,
        now: Timestamp,
        relay: &RelayRate,
    ) -> Result<(), DropReason> {
        let now = nanoseconds(now.since_start());
        let Some(pace) = self.session else {
            return relay.take(bytes, now);
        };
        let owes = self.owes.entry(vni).or_default();
        let after = pace.take(*owes, bytes, now);
        let after = after.ok_or(DropReason::SessionRate)?;
        relay.take(bytes, now)?;
        *owes = after;
        Ok(())
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget(&mut self, vni: Vni) {
        self.owes.remove(&vni);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn what_another_path_owes_counts_in_its_own_time() {
        static OWES: AtomicU64 = AtomicU64::new(0);
        const MEBIBYTE: u64 = 1 << 20;
        let config = Config {
            max_bytes_per_second: NonZero::new(MEBIBYTE),
            ..Config::default()
        };
        let mut rate = RelayRate::new(&config);
        // The other's clock was started 100 s after this one.
        let ahead = 0_u64.wrapping_sub(100_000_000_000);
        rate.share(SharedDebt { owes: &OWES, ahead });
        let now = 200_000_000_000;
        assert!(rate.take(LEAST_BURST, now).is_ok());
        assert_eq!(
            OWES.load(Ordering::Relaxed),
            100_000_000_000 + 125_000_000,
            "128 KiB take an eighth of a second"
        );
        assert_eq!(rate.take(1, now), Err(DropReason::RelayRate));
        // The other path has used up the next second.
        OWES.fetch_add(1_000_000_000, Ordering::Relaxed);
        assert!(rate.take(1, now + 1_000_000_000).is_err());
        assert!(rate.take(1, now + 1_000_001_000).is_ok());
    }
}
