//! Shedding of handshakes when more arrives than a thread can handle, so that no data is lost.
//!
//! A handshake message costs some twenty times as much as a forwarded datagram, and whoever has seen
//! one can replay it from anywhere. While messages queue, the socket's buffer fills up, and then the
//! kernel drops whatever arrives, data too.

use std::{num::NonZero, time::Duration};

use relay_proto::{RateLimit, Timestamp};

/// The number of full batches in a row after which a thread is behind: a sixth of what a socket has
/// room for, and more than clients send at once when they all come back.
const BEHIND_AFTER: u32 = 21;
/// Handshake messages admitted from each batch while the thread is behind, of up to 96.
const PER_BATCH: u32 = 6;
/// Handshake messages admitted at once.
const BURST: NonZero<u64> = NonZero::new(8_192).expect("it is not zero");
/// The time in which as many again are admitted: 10,000 a second, a tenth of a thread's time.
const BURST_PERIOD: Duration = Duration::from_micros(BURST.get() * 100);

/// State of one socket's queue: a thread keeps up with it, or does not.
#[derive(Debug)]
pub(super) struct Backlog {
    /// Full batches in a row.
    full: u32,
    /// Messages of this batch that are still admitted while the thread is behind.
    left: u32,
    limit: RateLimit,
    tat: Timestamp,
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            full: 0,
            left: 0,
            limit: RateLimit::new(BURST, BURST_PERIOD),
            tat: Timestamp::START,
        }
    }
}

impl Backlog {
    /// Records a batch; a full one may have left more to read.
    pub(super) const fn record_batch(&mut self, full: bool) {
        self.full = if full { self.full.saturating_add(1) } else { 0 };
        self.left = PER_BATCH;
    }

    /// Returns whether a handshake message of this batch, which was read at `now`, is handled.
    pub(super) fn admits(&mut self, now: Timestamp) -> bool {
        let behind = self.full >= BEHIND_AFTER;
        if behind && self.left == 0 {
            return false;
        }
        let Some(tat) = self.limit.admit(self.tat, 1, now) else {
            return false;
        };
        self.left = self.left.saturating_sub(u32::from(behind));
        self.tat = tat;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::socket::SLOTS;

    /// A moment so far from others that nothing else counts.
    fn at(second: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(second))
    }

    /// Handshake messages that are admitted from batches of this kind at one moment.
    fn turns(backlog: &mut Backlog, full: bool, batches: u32, now: Timestamp) -> usize {
        let mut admitted = 0;
        for _ in 0..batches {
            backlog.record_batch(full);
            admitted += (0..SLOTS).filter(|_| backlog.admits(now)).count();
        }
        admitted
    }

    #[test]
    fn messages_of_a_burst_are_all_answered() {
        let mut backlog = Backlog::default();
        for round in 1..4 {
            assert_eq!(turns(&mut backlog, true, 20, at(round)), 20 * SLOTS);
            assert_eq!(turns(&mut backlog, false, 1, at(round)), SLOTS);
        }
    }

    #[test]
    fn thread_that_is_behind_answers_few_until_it_has_caught_up() {
        let mut backlog = Backlog::default();
        turns(&mut backlog, true, 20, at(1));
        assert_eq!(turns(&mut backlog, true, 1_000, at(1)), 6_000);
        assert_eq!(turns(&mut backlog, false, 1, at(1)), SLOTS);
    }

    #[test]
    fn lasting_load_takes_a_tenth_of_the_threads_time() {
        let mut backlog = Backlog::default();
        let first = turns(&mut backlog, false, 1_000, at(10));
        assert_eq!(first as u64, BURST.get());
        let (mut answered, seconds) = (0, 5);
        for millis in 1..=seconds * 1_000 {
            let now = at(10) + Duration::from_millis(millis);
            answered += turns(&mut backlog, false, 10, now);
        }
        assert_eq!(answered, 10_000 * seconds as usize);
    }
}
