//! Waits: the time that something usually takes, the longest that it may take, and for how long it then holds.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{progress::Progress, signals};

/// Time for which a probe must continue to hold, so that a passing state is not taken for the end.
const STAY: Duration = Duration::from_secs(1);
/// Time between two probes.
const INTERVAL: Duration = Duration::from_millis(150);

/// The usual and the longest time of something.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    expected: Duration,
    longest: Duration,
}

impl Wait {
    /// A status, a policy or an object follows a change: some watches, requests and writes.
    pub const STATUS: Self = Self::new(5, 30);
    /// Pods are made, started, replaced or deleted.
    pub const PODS: Self = Self::new(20, 75);

    /// A wait of `expected` seconds as a rule, and `longest` at most.
    pub const fn new(expected: u64, longest: u64) -> Self {
        Self {
            expected: Duration::from_secs(expected),
            longest: Duration::from_secs(longest),
        }
    }

    /// The longest time that this may take.
    pub const fn longest(self) -> Duration {
        self.longest
    }

    /// Repeats `probe` until it has held for a second on end, and gives the time until that second began.
    /// Says so when that took longer than expected; fails when it takes longer than the longest time.
    pub fn until(self, what: &str, mut probe: impl FnMut() -> Result<()>) -> Result<Duration> {
        let start = Instant::now();
        let mut holds_since: Option<Instant> = None;
        let mut passed = 0;
        loop {
            signals::check()?;
            match probe() {
                Ok(()) => {
                    let since = *holds_since.get_or_insert_with(Instant::now);
                    ensure!(
                        since - start <= self.longest,
                        "only after {} s, not within {}: {what}",
                        (since - start).as_secs(),
                        self.longest.as_secs()
                    );
                    if since.elapsed() >= STAY {
                        let took = since - start;
                        self.report(what, took, passed);
                        return Ok(took);
                    }
                }
                Err(error) => {
                    passed += usize::from(holds_since.take().is_some());
                    let longest = self.longest.as_secs();
                    ensure!(
                        start.elapsed() <= self.longest,
                        "not within {longest} s, held and passed {passed} times: {what}: {error:#}"
                    );
                }
            }
            thread::sleep(INTERVAL);
        }
    }

    fn report(self, what: &str, took: Duration, passed: usize) {
        if took > self.expected || passed > 0 {
            Progress::stderr().line(format_args!(
                "slow: {what}: {:.1} s, expected {}; held and passed {passed} times before",
                took.as_secs_f64(),
                self.expected.as_secs()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn a_state_that_passes_does_not_end_a_wait() {
        let mut probes = 0;
        let wait = Wait::new(1, 5).until("it stays", || {
            probes += 1;
            ensure!(probes != 2, "it has passed");
            Ok(())
        });
        wait.expect("it stays from the third probe on");
        assert!(probes > 3);
        let late = Wait::new(0, 0).until("it comes late", || Ok(()));
        late.expect_err("it comes after no time at all");
        let error = Wait::new(0, 0).until("it comes", || bail!("it is not there"));
        let error = error.expect_err("it never comes").to_string();
        assert!(error.contains("it comes: it is not there"), "{error}");
    }
}
