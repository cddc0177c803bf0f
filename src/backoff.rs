//! Exponential backoff: the wait after each failure in a row is twice the one before, up to a longest
//! one.
//!
//! The waits are a function of the number of failures, so that callers without a task of their own, such
//! as a reconciliation, can keep that number and nothing else. Random parts are factors around the
//! doubled wait: a jitter that only lengthens waits would delay each recovery.

use std::{ops::RangeInclusive, time::Duration};

/// Shortest and longest wait, and by which factors they are varied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backoff {
    shortest: Duration,
    longest: Duration,
    jitter: RangeInclusive<f64>,
}

/// Waits of one series of failures.
#[derive(Debug, Clone)]
pub(crate) struct Waits {
    backoff: Backoff,
    failures: u32,
}

impl Backoff {
    /// Waits from `shortest` to `longest`, without a random part.
    pub(crate) const fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            jitter: 1.0..=1.0,
        }
    }

    /// The same waits, each multiplied by a random factor from this range: processes that failed
    /// together do not try again together.
    pub(crate) const fn with_jitter(self, jitter: RangeInclusive<f64>) -> Self {
        Self {
            shortest: self.shortest,
            longest: self.longest,
            jitter,
        }
    }

    /// The wait after so many failures in a row; zero after none.
    pub(crate) fn after(&self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let wait = self
            .shortest
            .saturating_mul(2_u32.saturating_pow(doublings));
        wait.min(self.longest)
            .mul_f64(rand::random_range(self.jitter.clone()))
    }

    /// The waits of a series of failures that has not begun yet.
    pub(crate) const fn waits(self) -> Waits {
        Waits {
            backoff: self,
            failures: 0,
        }
    }
}

impl Waits {
    /// The wait after one more failure.
    pub(crate) fn wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.backoff.after(self.failures)
    }

    /// Ends the series: the next failure is the first one again.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.wait())
    }
}

impl kube_runtime::utils::Backoff for Waits {
    fn reset(&mut self) {
        self.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew() {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut waits = backoff.clone().waits();
        let first: Vec<_> = waits
            .by_ref()
            .take(8)
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(first, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        waits.reset();
        assert_eq!(waits.wait(), Duration::from_millis(100));
        assert_eq!(backoff.after(0), Duration::ZERO);
        assert_eq!(backoff.after(u32::MAX), Duration::from_secs(5));
    }

    #[test]
    fn random_parts_stay_within_their_factors() {
        let second = Duration::from_secs(1);
        let backoff = Backoff::new(second, 8 * second).with_jitter(0.5..=1.5);
        for failures in 1..1_000 {
            let middle = second * 2_u32.pow((failures - 1).min(3));
            let wait = backoff.after(failures);
            assert!(wait >= middle.mul_f64(0.5) && wait <= middle.mul_f64(1.5));
        }
    }
}
