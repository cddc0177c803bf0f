//! When a thread waits on purpose, so that datagrams come together.
//!
//! A thread that keeps up wakes for every few datagrams, and pays three system calls each time. As
//! network cards do with interrupts, it lets them gather while many come; at lower rates, and for
//! super-datagrams of bulk traffic, of which few make much, it never does. Handshakes by themselves
//! gather much sooner: nobody notices that one takes a tenth of a millisecond longer.

use std::time::Duration;

use relay_proto::Timestamp;

/// How long datagrams gather. The kernel may add its timer slack, 50 microseconds.
const GATHER: Duration = Duration::from_micros(60);
/// Waiting pays from this many in that time: about 40,000 a second for each thread.
const MANY: u32 = 3;
/// How much sooner it pays for handshakes: from about 4,000 a second.
const SOONER: u32 = 12;
/// Then it is looked whether another socket has something.
const IN_A_ROW: u8 = 15;

/// Datagrams that a thread took in a turn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Intake {
    datagrams: usize,
    handshakes: usize,
}

impl Intake {
    /// Adds a batch with so many datagrams and super-datagrams, and so many handshake messages in
    /// them.
    pub(super) const fn add(&mut self, datagrams: usize, handshakes: usize) {
        self.datagrams += datagrams;
        self.handshakes += handshakes;
    }

    /// For how many datagrams it counts.
    fn weight(self) -> u32 {
        let datagrams = u32::try_from(self.datagrams).unwrap_or(u32::MAX);
        match self.handshakes >= self.datagrams {
            true => datagrams.saturating_mul(SOONER),
            false => datagrams,
        }
    }
}

/// The rate at which datagrams come, turn by turn.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    last: Timestamp,
    in_a_row: u8,
}

impl Coalescer {
    /// After a turn that took this and left nothing: how long to let more gather, if at all.
    pub(super) fn delay(&mut self, taken: Intake, now: Timestamp) -> Option<Duration> {
        let passed = now.since(self.last).max(Duration::from_micros(1));
        self.last = now;
        let many = GATHER.saturating_mul(taken.weight()) >= passed.saturating_mul(MANY);
        self.in_a_row = match many && self.in_a_row < IN_A_ROW {
            true => self.in_a_row + 1,
            false => 0,
        };
        (self.in_a_row > 0).then_some(GATHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Timestamp {
        Timestamp::from_start(Duration::from_secs(1) + Duration::from_micros(micros))
    }

    /// How often of `turns` a thread gathers that takes these every `micros`.
    fn gathers_of(datagrams: usize, handshakes: usize, micros: u64, turns: u64) -> usize {
        let mut taken = Intake::default();
        taken.add(datagrams, handshakes);
        let mut coalescer = Coalescer::default();
        coalescer.delay(Intake::default(), at(0));
        let each = (1..=turns).map(|turn| coalescer.delay(taken, at(turn * micros)));
        each.flatten().count()
    }

    fn gathers(datagrams: usize, micros: u64, turns: u64) -> usize {
        gathers_of(datagrams, 0, micros, turns)
    }

    #[test]
    fn ten_thousand_a_second_never_wait() {
        assert_eq!(gathers(1, 100, 1000), 0);
    }

    #[test]
    fn nothing_and_little_at_once_never_wait() {
        assert_eq!(gathers(0, 1, 1000), 0);
        assert_eq!(gathers(1, 1_000_000, 10), 0);
    }

    #[test]
    fn handshakes_gather_at_lower_rates_unless_data_is_among_them() {
        assert_eq!(gathers_of(1, 1, 200, 160), 150);
        assert_eq!(gathers_of(1, 1, 1_000, 160), 0);
        assert_eq!(gathers_of(3, 2, 300, 160), 0);
    }

    #[test]
    fn many_gather_and_other_sockets_get_their_turn() {
        assert_eq!(gathers(2, 20, 160), 150);
    }
}
