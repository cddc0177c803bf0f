//! The control server's clock, by which keys expire.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A smaller difference between the two clocks is ignored (`ipnlocal.minClockDelta`).
const TOLERANCE: SignedDuration = SignedDuration::from_mins(1);
/// A clock that shows an earlier time tells nothing about keys (`ipnlocal.flagExpiredPeersEpoch`),
/// in seconds since 1970.
const EARLIEST: i64 = 1_673_373_066;

/// Difference between the control server's clock and this host's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ControlClock {
    ahead: SignedDuration,
}

impl ControlClock {
    /// Compares the two clocks (`tailcfg.MapResponse.ControlTime`). Returns whether the difference is
    /// another one than before.
    pub(super) fn record(&mut self, control: Timestamp, local: Timestamp) -> bool {
        let ahead = control.duration_since(local);
        let differs = ahead.unsigned_abs() > TOLERANCE.unsigned_abs();
        let ahead = if differs { ahead } else { SignedDuration::ZERO };
        let before = std::mem::replace(&mut self.ahead, ahead);
        before != ahead
    }

    /// The control server's time when this host's clock shows `local`; `None` when it cannot be
    /// right.
    pub(super) fn now(&self, local: Timestamp) -> Option<Timestamp> {
        let now = local.checked_add(self.ahead).ok()?;
        (now.as_second() >= EARLIEST).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn control_is_believed_when_the_clocks_differ_by_more_than_a_minute() {
        let local: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut clock = ControlClock::default();
        assert_eq!(clock.now(local), Some(local));
        for (control, now) in [
            ("2026-01-01T00:01:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:01:01Z", "2026-01-01T00:01:01Z"),
            ("2025-12-31T23:00:00Z", "2025-12-31T23:00:00Z"),
            ("2025-12-31T23:59:30Z", "2026-01-01T00:00:00Z"),
        ] {
            let before = clock.now(local);
            let changes = clock.record(control.parse().unwrap(), local);
            assert_eq!(clock.now(local), Some(now.parse().unwrap()), "{control}");
            assert_eq!(changes, clock.now(local) != before);
        }
        clock.record("2020-01-01T00:00:00Z".parse().unwrap(), local);
        assert_eq!(clock.now(local), None);
    }
}
