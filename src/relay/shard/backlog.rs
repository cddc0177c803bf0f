//! What a thread leaves undone when more comes than it can do: handshakes, so that data is not lost.
//!
//! A handshake message costs some twenty times as much as a datagram that is forwarded, and whoever
//! has seen one can send it again from anywhere. While messages wait behind each other, the socket's
//! buffer fills up, and then the kernel drops whatever comes, data too.

/// Full batches in a row after which a thread is behind: a sixth of what a socket has room for, and
/// more than clients send at once that come back together.
const BEHIND: u32 = 16;
/// Handshake messages of each batch that get their turn then, of up to 128.
const TURNS: u32 = 8;

/// Whether a thread keeps up with one socket.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    full: u32,
    left: u32,
}

impl Backlog {
    /// A batch was read, a full one when more may wait.
    pub(super) const fn note(&mut self, full: bool) {
        self.full = if full { self.full.saturating_add(1) } else { 0 };
        self.left = TURNS;
    }

    /// Whether a handshake message of this batch gets its turn.
    pub(super) const fn admits(&mut self) -> bool {
        if self.full < BEHIND {
            return true;
        }
        let admits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::socket::SLOTS;

    /// Handshake messages that get their turn in the batches of this kind.
    fn turns(backlog: &mut Backlog, full: bool, batches: u32) -> usize {
        let mut admitted = 0;
        for _ in 0..batches {
            backlog.note(full);
            admitted += (0..SLOTS).filter(|_| backlog.admits()).count();
        }
        admitted
    }

    #[test]
    fn what_comes_at_once_is_all_answered() {
        let mut backlog = Backlog::default();
        for _ in 0..3 {
            assert_eq!(turns(&mut backlog, true, 15), 15 * SLOTS);
            assert_eq!(turns(&mut backlog, false, 1), SLOTS);
        }
    }

    #[test]
    fn thread_that_is_behind_answers_few_until_it_has_caught_up() {
        let mut backlog = Backlog::default();
        turns(&mut backlog, true, 15);
        assert_eq!(turns(&mut backlog, true, 1_000), 8_000);
        assert_eq!(turns(&mut backlog, false, 1), SLOTS);
    }
}
