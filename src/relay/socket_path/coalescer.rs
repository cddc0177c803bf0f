//! Coalescing of wake-ups: a thread waits on purpose, so that it reads more datagrams at once.
//!
//! A thread that keeps up wakes for every few datagrams, and pays three system calls each time. As
//! network cards do with interrupts, it waits a little while the rate is high. It never does at lower
//! rates, nor for super-datagrams of bulk traffic, of which a few carry much. Handshakes alone are
//! coalesced at a much lower rate, because a tenth of a millisecond more does not matter to them.

use std::time::Duration;

use relay_proto::Timestamp;

/// Length of a wait. The kernel may add its timer slack, 50 microseconds.
const DELAY: Duration = Duration::from_micros(60);
/// Number of datagrams in that time from which on a wait pays, which is about 40,000 a second for
/// each thread.
const MIN_DATAGRAMS: u32 = 3;
/// Weight of a handshake message: for them, a wait pays from about 4,000 a second.
const HANDSHAKE_WEIGHT: u32 = 12;
/// Largest number of waits in a row, after which all sockets are polled.
const MAX_IN_A_ROW: u8 = 15;

/// Datagrams that a thread took in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Intake {
    datagrams: usize,
    handshakes: usize,
}

impl Intake {
    /// Adds a batch of so many datagrams and super-datagrams, in which there are so many handshake
    /// messages.
    pub(super) const fn add(&mut self, datagrams: usize, handshakes: usize) {
        self.datagrams += datagrams;
        self.handshakes += handshakes;
    }

    /// Number of datagrams that this intake counts as.
    fn weight(self) -> u32 {
        let datagrams = u32::try_from(self.datagrams).unwrap_or(u32::MAX);
        match self.handshakes >= self.datagrams {
            true => datagrams.saturating_mul(HANDSHAKE_WEIGHT),
            false => datagrams,
        }
    }
}

/// Measures the rate of datagrams turn by turn, and decides when to wait.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    last: Timestamp,
    in_a_row: u8,
}

impl Coalescer {
    /// Returns how long to wait, if at all, after a turn that has read all datagrams.
    pub(super) fn delay(&mut self, intake: Intake, now: Timestamp) -> Option<Duration> {
        let passed = now.since(self.last).max(Duration::from_micros(1));
        self.last = now;
        let many = DELAY.saturating_mul(intake.weight()) >= passed.saturating_mul(MIN_DATAGRAMS);
        self.in_a_row = match many && self.in_a_row < MAX_IN_A_ROW {
            true => self.in_a_row + 1,
            false => 0,
        };
        (self.in_a_row > 0).then_some(DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(1) + Duration::from_micros(micros))
    }

    /// Counts the waits in `turns` turns of a thread that reads these every `micros` microseconds.
    fn waits_of(datagrams: usize, handshakes: usize, micros: u64, turns: u64) -> usize {
        let mut intake = Intake::default();
        intake.add(datagrams, handshakes);
        let mut coalescer = Coalescer::default();
        coalescer.delay(Intake::default(), at(0));
        let each = (1..=turns).map(|turn| coalescer.delay(intake, at(turn * micros)));
        each.flatten().count()
    }

    fn waits(datagrams: usize, micros: u64, turns: u64) -> usize {
        waits_of(datagrams, 0, micros, turns)
    }

    #[test]
    fn ten_thousand_a_second_never_wait() {
        assert_eq!(waits(1, 100, 1000), 0);
    }

    #[test]
    fn nothing_and_little_at_once_never_wait() {
        assert_eq!(waits(0, 1, 1000), 0);
        assert_eq!(waits(1, 1_000_000, 10), 0);
    }

    #[test]
    fn handshakes_wait_at_lower_rates_unless_data_is_among_them() {
        assert_eq!(waits_of(1, 1, 200, 160), 150);
        assert_eq!(waits_of(1, 1, 1_000, 160), 0);
        assert_eq!(waits_of(3, 2, 300, 160), 0);
    }

    #[test]
    fn many_wait_and_other_sockets_are_polled_in_between() {
        assert_eq!(waits(2, 20, 160), 150);
    }
}
