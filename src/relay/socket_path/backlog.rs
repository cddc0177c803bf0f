//! What a thread leaves undone when more comes than it can do: handshakes, so that data is not lost.
//!
//! A handshake message costs some twenty times as much as a datagram that is forwarded, and whoever
//! has seen one can send it again from anywhere. While messages wait behind each other, the socket's
//! buffer fills up, and then the kernel drops whatever comes, data too.

use std::time::Duration;

use relay_proto::Timestamp;

/// Full batches in a row after which a thread is behind: a sixth of what a socket has room for, and
/// more than clients send at once that come back together.
const BEHIND: u32 = 21;
/// Handshake messages of each batch that get their turn then, of up to 96.
const TURNS: u32 = 6;
/// Time for each message, as long as many come: 10,000 a second take a tenth of a thread's time.
const EACH: Duration = Duration::from_micros(100);
/// Messages at once that nobody has to wait for.
const AT_ONCE: u32 = 8_192;

/// Whether a thread keeps up with one socket.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    full: u32,
    left: u32,
    /// When the time of all messages so far is over.
    spent: Timestamp,
}

impl Backlog {
    /// A batch was read, a full one when more may wait.
    pub(super) const fn record_batch(&mut self, full: bool) {
        self.full = if full { self.full.saturating_add(1) } else { 0 };
        self.left = TURNS;
    }

    /// Whether a handshake message of this batch, which was read at `now`, gets its turn.
    pub(super) fn admits(&mut self, now: Timestamp) -> bool {
        let spent = self.spent.max(now);
        let behind = self.full >= BEHIND;
        if (behind && self.left == 0) || spent.since(now) >= AT_ONCE * EACH {
            return false;
        }
        self.left = self.left.saturating_sub(u32::from(behind));
        self.spent = spent + EACH;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::socket::SLOTS;

    /// A moment of a time in which nothing else comes.
    fn at(second: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(second))
    }

    /// Handshake messages that get their turn in the batches of this kind, at one moment.
    fn turns(backlog: &mut Backlog, full: bool, batches: u32, now: Timestamp) -> usize {
        let mut admitted = 0;
        for _ in 0..batches {
            backlog.record_batch(full);
            admitted += (0..SLOTS).filter(|_| backlog.admits(now)).count();
        }
        admitted
    }

    #[test]
    fn what_comes_at_once_is_all_answered() {
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
    fn what_comes_for_long_takes_a_share_of_the_threads_time() {
        let mut backlog = Backlog::default();
        let first = turns(&mut backlog, false, 1_000, at(10));
        assert_eq!(first, AT_ONCE as usize);
        let (mut answered, seconds) = (0, 5);
        for millis in 1..=seconds * 1_000 {
            let now = at(10) + Duration::from_millis(millis);
            answered += turns(&mut backlog, false, 10, now);
        }
        assert_eq!(answered, 10_000 * seconds as usize);
    }
}
