//! The rate limit that everything limited here uses: the generic cell rate algorithm (GCRA).
//!
//! The state of a limit is one number, its theoretical arrival time (TAT): the moment at which all
//! that was admitted is paid for. It needs no timer, and a TAT that has passed says no more than a
//! limit that was never used, so it may be dropped.

use std::{num::NonZero, time::Duration};

use crate::time::{Timestamp, nanoseconds};

/// Least burst of a bandwidth limit, as time at its rate.
const BANDWIDTH_BURST: Duration = Duration::from_millis(50);
/// Least burst of a bandwidth limit, in bytes: one UDP super-datagram has up to 64 KiB, and a limit
/// that never admits two of them in a row would stall bulk traffic at low rates.
const BANDWIDTH_BURST_BYTES: u64 = 128 << 10;

/// A rate of units (bytes, requests, messages) and the burst that it tolerates.
///
/// The owner keeps the TAT; a limit that was never used has [`Timestamp::START`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    units: NonZero<u64>,
    /// Time in which `units` are admitted, in nanoseconds.
    period: u64,
    /// Tolerated burst, as nanoseconds at the limit's rate.
    burst: u64,
}

impl RateLimit {
    /// A limit that admits `units` at once, and as many again in each `period`.
    pub const fn new(units: NonZero<u64>, period: Duration) -> Self {
        let period = nanoseconds(period);
        Self {
            units,
            period,
            burst: period,
        }
    }

    /// A limit on bandwidth, whose burst is 50 ms of data and never less than 128 KiB.
    pub fn bandwidth(bytes_per_second: NonZero<u64>) -> Self {
        let mut limit = Self::new(bytes_per_second, Duration::from_secs(1));
        let least = limit.cost(BANDWIDTH_BURST_BYTES);
        limit.burst = least.max(nanoseconds(BANDWIDTH_BURST));
        limit
    }

    /// Units that the limit admits in a second, rounded down.
    pub fn per_second(&self) -> u64 {
        let units = u128::from(self.units.get()) * 1_000_000_000;
        let per_second = units / u128::from(self.period.max(1));
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }

    /// The time that a whole burst takes at the limit's rate.
    pub const fn burst(&self) -> Duration {
        Duration::from_nanos(self.burst)
    }

    /// The TAT after `units` more at `now`; `None` if they exceed the burst and must be refused.
    #[must_use]
    pub fn admit(&self, tat: Timestamp, units: u64, now: Timestamp) -> Option<Timestamp> {
        let after = tat.max(now).as_nanos().saturating_add(self.cost(units));
        (after - now.as_nanos() <= self.burst).then_some(Timestamp::from_nanos(after))
    }

    /// Nanoseconds that `units` take at the limit's rate.
    fn cost(&self, units: u64) -> u64 {
        let cost = u128::from(units) * u128::from(self.period) / u128::from(self.units.get());
        u64::try_from(cost).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    /// Units that the limit admits one by one at one moment.
    fn admitted(limit: &RateLimit, tat: &mut Timestamp, now: Timestamp) -> usize {
        std::iter::from_fn(|| limit.admit(*tat, 1, now).map(|after| *tat = after)).count()
    }

    #[test]
    fn burst_comes_at_once_and_the_rest_at_the_rate() {
        let limit = RateLimit::new(NonZero::new(100).unwrap(), Duration::from_secs(1));
        let at = |ms: u64| Timestamp::from_start(Duration::from_millis(5_000 + ms));
        let mut tat = Timestamp::START;
        assert_eq!(admitted(&limit, &mut tat, at(0)), 100);
        assert_eq!(admitted(&limit, &mut tat, at(0)), 0);
        assert_eq!(admitted(&limit, &mut tat, at(250)), 25);
        assert_eq!(admitted(&limit, &mut tat, at(10_000)), 100);
        assert_eq!(limit.per_second(), 100);
    }

    #[test]
    fn low_bandwidth_still_admits_two_super_datagrams() {
        let bandwidth = |bytes| RateLimit::bandwidth(NonZero::new(bytes).unwrap());
        let now = Timestamp::from_start(Duration::from_secs(9));
        let slow = bandwidth(1_000);
        let after = slow.admit(Timestamp::START, 64 << 10, now).unwrap();
        assert!(slow.admit(after, 64 << 10, now).is_some());
        assert_eq!(bandwidth(1 << 30).burst(), BANDWIDTH_BURST);
        assert_eq!(bandwidth(u64::MAX).per_second(), u64::MAX);
    }
}
