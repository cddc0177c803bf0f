//! Backoff for attaching the program again where another process has detached it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::backoff::Backoff;

/// Longest wait before a device is tried again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Waits before a device is tried again, from its second loss on.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), LONGEST_WAIT);
/// Time after which a device that stayed attached counts as if it had never been lost.
const RESET_AFTER: Duration = Duration::from_secs(5 * 60);

/// Losses by device index. Two programs that each put themselves in the other's place must not
/// keep each other busy.
#[derive(Debug, Default)]
pub(super) struct ReattachBackoff {
    lost: BTreeMap<u32, Lost>,
}

#[derive(Debug)]
struct Lost {
    at: Instant,
    wait: Duration,
    /// Losses in a row before this one.
    earlier: u32,
}

impl ReattachBackoff {
    /// Records the loss of a device; returns the wait before it may be attached again.
    pub(super) fn lose(&mut self, index: u32, now: Instant) -> Duration {
        let earlier = match self.lost.get(&index) {
            Some(lost) if now < lost.at + lost.wait + RESET_AFTER => lost.earlier.saturating_add(1),
            _ => 0,
        };
        let wait = BACKOFF.after(earlier);
        let at = now;
        self.lost.insert(index, Lost { at, wait, earlier });
        wait
    }

    /// Returns whether the program may be attached to a device now.
    pub(super) fn allows(&self, index: u32, now: Instant) -> bool {
        self.lost
            .get(&index)
            .is_none_or(|lost| lost.at + lost.wait <= now)
    }

    /// Time of the next attempt for a device that waits.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.lost.values().map(|lost| lost.at + lost.wait);
        due.filter(|due| *due > now).min()
    }

    /// Forgets devices that are gone: an index may be given again.
    pub(super) fn retain(&mut self, exists: impl Fn(u32) -> bool) {
        self.lost.retain(|index, _| exists(*index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_loss_is_mended_at_once_and_a_fight_is_not_fought() {
        let (mut backoff, start) = (ReattachBackoff::default(), Instant::now());
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..10 {
            let wait = backoff.lose(7, now);
            waits.push(wait.as_secs());
            assert_eq!(backoff.allows(7, now), wait.is_zero());
            assert_eq!(backoff.due(now), (!wait.is_zero()).then_some(now + wait));
            now += wait;
            assert!(backoff.allows(7, now));
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(backoff.allows(8, start), "other devices are not concerned");
        now += RESET_AFTER + LONGEST_WAIT;
        assert_eq!(backoff.lose(7, now), Duration::ZERO);
        backoff.retain(|index| index != 7);
        assert_eq!(backoff.lose(7, now), Duration::ZERO, "another device");
    }
}
