//! Load at a fixed rate in which every datagram has a number: it is known which ones got lost.
//!
//! Datagrams are due at times that are fixed beforehand. A sender that was late sends what is due at
//! once, as many clients would that know nothing of each other.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::load::Flow;

/// Behind the header: the datagram's number.
const NUMBER: Range<usize> = 8..16;
/// More than any run sends.
const MOST: u64 = 1 << 30;
/// Most that are sent without a pause: a sender that was late must not make a flood.
const BURST: u64 = 32;
/// Pauses of sender and receiver.
const PAUSE: Duration = Duration::from_micros(50);
const LOOK: Duration = Duration::from_millis(1);
/// For datagrams that are on their way when the last one was sent.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// A session passes data when some of its last datagrams arrived: those of this time.
const LAST: Duration = Duration::from_secs(1);

/// What became of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Datagrams sent.
    pub sent: u64,
    /// Those that did not arrive.
    pub lost: u64,
    /// Those that arrived more than once.
    pub repeated: u64,
    /// The longest time in which none that was due arrived.
    pub longest_gap: Duration,
    /// Sessions that passed data in the end.
    pub sessions: usize,
}

/// Sends the flows in turn, `rate` datagrams a second in all, while `work` is done; `receivers` are
/// where they arrive.
pub fn run<T>(
    flows: &mut [Flow],
    receivers: &[UdpSocket],
    rate: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<(Outcome, T)> {
    let (sessions, size) = (
        flows.len(),
        flows.first().map_or(0, |flow| flow.bytes.len()),
    );
    for receiver in receivers {
        receiver.set_nonblocking(true)?;
        drain(receiver, |_| ())?;
    }
    let (stop, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sent, seen, done) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(flows, rate, &stop));
        let receiver = scope.spawn(|| receive(receivers, size, &end));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join();
        thread::sleep(ON_THE_WAY);
        end.store(true, Ordering::Relaxed);
        (sent, receiver.join(), done)
    });
    let sent = sent.map_err(|_| anyhow!("the sender panicked"))??;
    let seen = seen.map_err(|_| anyhow!("the receiver panicked"))??;
    Ok((seen.outcome(sent, rate, sessions), done?))
}

fn send(flows: &mut [Flow], rate: u32, stop: &AtomicBool) -> Result<u64> {
    let (count, start) = (flows.len() as u64, Instant::now());
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let end = due.min(number + BURST);
        while number < end {
            let flow = &mut flows[(number % count) as usize];
            flow.bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
            // Where nobody listens, the kernel tells of the last one and sends nothing.
            let mut sent = flow.socket.send(&flow.bytes);
            if matches!(&sent, Err(error) if error.kind() == ErrorKind::ConnectionRefused) {
                sent = flow.socket.send(&flow.bytes);
            }
            match sent {
                Ok(_) => number += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("failed to send"),
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(number)
}

fn receive(receivers: &[UdpSocket], size: usize, end: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    loop {
        let last = end.load(Ordering::Relaxed);
        for receiver in receivers {
            drain(receiver, |datagram| {
                if datagram.len() == size
                    && let Ok(number) = datagram[NUMBER].try_into().map(u64::from_be_bytes)
                {
                    seen.note(number);
                }
            })?;
        }
        if last {
            return Ok(seen);
        }
        thread::sleep(LOOK);
    }
}

fn drain(receiver: &UdpSocket, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match receiver.recv(&mut buffer) {
            Ok(len) => each(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("failed to receive"),
        }
    }
}

/// The numbers that arrived.
#[derive(Debug, Default)]
struct Seen {
    words: Vec<u64>,
    repeated: u64,
}

impl Seen {
    fn note(&mut self, number: u64) {
        if number >= MOST {
            return;
        }
        let (word, bit) = Self::place(number);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.repeated += u64::from(self.words[word] & bit != 0);
        self.words[word] |= bit;
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    const fn place(number: u64) -> (usize, u64) {
        ((number / 64) as usize, 1 << (number % 64))
    }

    fn outcome(&self, sent: u64, rate: u32, sessions: usize) -> Outcome {
        let (mut lost, mut run, mut longest) = (0, 0, 0);
        for number in 0..sent {
            if self.has(number) {
                run = 0;
            } else {
                (lost, run) = (lost + 1, run + 1);
                longest = longest.max(run);
            }
        }
        let last = (LAST.as_secs_f64() * f64::from(rate)) as u64;
        let first = sent.saturating_sub(last);
        let passes = |session: &u64| {
            (first..sent).any(|number| number % sessions as u64 == *session && self.has(number))
        };
        Outcome {
            sent,
            lost,
            repeated: self.repeated,
            longest_gap: Duration::from_secs_f64(longest as f64 / f64::from(rate)),
            sessions: (0..sessions as u64).filter(passes).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_that_did_not_arrive_is_lost() {
        let mut seen = Seen::default();
        for number in (0..100).chain(110..1_000).chain([500, MOST]) {
            seen.note(number);
        }
        let outcome = seen.outcome(1_000, 100, 4);
        let expected = Outcome {
            sent: 1_000,
            lost: 10,
            repeated: 1,
            longest_gap: Duration::from_millis(100),
            sessions: 4,
        };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn session_of_which_nothing_arrives_any_more_is_lost() {
        let mut seen = Seen::default();
        (0..1_000)
            .filter(|number| number % 4 != 1 || *number < 800)
            .for_each(|number| seen.note(number));
        assert_eq!(seen.outcome(1_000, 100, 4).sessions, 3);
    }
}
