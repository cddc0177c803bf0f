//! Load at a fixed rate in which every datagram has a number: it is known which ones got lost.
//!
//! Datagrams are due at times that are fixed beforehand. A sender that was late sends what is due at
//! once, as many clients would that know nothing of each other. Their latency counts from when they
//! were due to when the kernel received them, so that no receiver has to be awake.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use super::{load::Flow, system};

/// Behind the header: the datagram's number.
const NUMBER: Range<usize> = 8..16;
/// More than any run sends.
const MOST: u64 = 1 << 30;
/// Most that are sent without a pause: a sender that was late must not make a flood.
const BURST: u64 = 32;
/// Pauses of sender and receiver.
const PAUSE: Duration = Duration::from_micros(50);
const POLL: Duration = Duration::from_millis(1);
/// For datagrams that are on their way when the last one was sent.
const ON_THE_WAY: Duration = Duration::from_millis(300);
/// A session passes data when some of its last datagrams arrived: those of this time.
const LAST: Duration = Duration::from_secs(1);
/// The interval at which a receiver answers: a relay ends a session of which one client is silent.
const ANSWER: Duration = Duration::from_secs(1);

/// The times at which datagrams are due: the first is due one interval after the start.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    /// The start, as receive timestamps have it.
    wall: Duration,
    rate: u32,
}

impl Schedule {
    fn new(rate: u32) -> Result<Self> {
        Ok(Self {
            start: Instant::now(),
            wall: system::wall_clock()?,
            rate,
        })
    }

    /// The number of datagrams that are due by now.
    pub fn due(&self) -> u64 {
        (self.start.elapsed().as_secs_f64() * f64::from(self.rate)) as u64
    }

    fn time(&self, number: u64) -> Duration {
        Duration::from_secs_f64((number + 1) as f64 / f64::from(self.rate))
    }

    fn wait(&self, number: u64) -> Duration {
        self.time(number).saturating_sub(self.start.elapsed())
    }

    fn latency(&self, number: u64, received: Duration) -> Duration {
        received.saturating_sub(self.wall + self.time(number))
    }
}

/// The result of a paced load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeliveryReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Number of datagrams that did not arrive.
    pub lost: u64,
    /// Number of datagrams that arrived more than once.
    pub repeated: u64,
    /// The longest time in which none that was due arrived.
    pub longest_gap: Duration,
    /// Sessions that passed data in the end.
    pub sessions: usize,
}

/// The time that each datagram was on its way, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Stands for a datagram that did not arrive.
    const NONE: u32 = u32::MAX;

    /// The 99th percentile of the datagrams with these numbers, in microseconds; `None`
    /// when none of them arrived.
    pub fn p99_us(&self, numbers: Range<u64>) -> Option<f64> {
        let place = |number: u64| (number as usize).min(self.0.len());
        let theirs = &self.0[place(numbers.start)..place(numbers.end)];
        let mut arrived: Vec<_> = theirs.iter().filter(|l| **l != Self::NONE).collect();
        arrived.sort_unstable();
        let last = arrived.len().checked_sub(1)?;
        Some(f64::from(*arrived[(last as f64 * 0.99).round() as usize]))
    }

    fn record(&mut self, number: u64, latency: Duration) {
        let number = number as usize;
        if self.0.len() <= number {
            self.0.resize(number + 1, Self::NONE);
        }
        let micros = u32::try_from(latency.as_micros()).unwrap_or(Self::NONE - 1);
        self.0[number] = self.0[number].min(micros);
    }
}

/// Sends the flows in turn, `rate` datagrams a second in all, while `work` is done; `receivers` are
/// where they arrive, and each sends a datagram a second back, as far as the relay is there.
pub fn run<T>(
    flows: &mut [Flow],
    receivers: &[UdpSocket],
    rate: u32,
    work: impl FnOnce(Schedule) -> Result<T>,
) -> Result<(DeliveryReport, Latencies, T)> {
    let (sessions, size) = (
        flows.len(),
        flows.first().map_or(0, |flow| flow.bytes.len()),
    );
    for receiver in receivers {
        receiver.set_nonblocking(true)?;
        system::set_timestamps(receiver)?;
        drain(receiver, |_, _| ())?;
    }
    let answers: Vec<_> = flows
        .iter()
        .map(|flow| flow.bytes[..NUMBER.end].to_vec())
        .collect();
    let schedule = Schedule::new(rate)?;
    let (stop, end) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sent, arrivals, done) = thread::scope(|scope| {
        let sender = scope.spawn(|| send(flows, schedule, &stop));
        let receiver = scope.spawn(|| receive(receivers, &answers, size, schedule, &end));
        let done = work(schedule);
        stop.store(true, Ordering::Relaxed);
        let sent = sender.join();
        thread::sleep(ON_THE_WAY);
        end.store(true, Ordering::Relaxed);
        (sent, receiver.join(), done)
    });
    let sent = sent.map_err(|_| anyhow!("the sender panicked"))??;
    let arrivals = arrivals.map_err(|_| anyhow!("the receiver panicked"))??;
    Ok((
        arrivals.report(sent, rate, sessions),
        arrivals.latencies,
        done?,
    ))
}

fn send(flows: &mut [Flow], schedule: Schedule, stop: &AtomicBool) -> Result<u64> {
    // What it waits for is the path, not a CPU.
    system::run_first();
    let count = flows.len() as u64;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let end = schedule.due().min(number + BURST);
        while number < end {
            let flow = &mut flows[(number % count) as usize];
            flow.bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
            number += u64::from(send_anyway(&flow.socket, &flow.bytes)?);
        }
        thread::sleep(schedule.wait(number).max(PAUSE));
    }
    Ok(number)
}

/// Sends although nobody may listen, which the kernel reports once instead of sending; says whether
/// it was sent.
fn send_anyway(socket: &UdpSocket, bytes: &[u8]) -> Result<bool> {
    for _ in 0..2 {
        match socket.send(bytes) {
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("failed to send"),
        }
    }
    Ok(false)
}

fn receive(
    receivers: &[UdpSocket],
    answers: &[Vec<u8>],
    size: usize,
    schedule: Schedule,
    end: &AtomicBool,
) -> Result<Arrivals> {
    let mut arrivals = Arrivals::default();
    let mut answered = Instant::now();
    loop {
        let last = end.load(Ordering::Relaxed);
        if answered.elapsed() >= ANSWER {
            answered = Instant::now();
            for (receiver, answer) in receivers.iter().zip(answers) {
                send_anyway(receiver, answer)?;
            }
        }
        for receiver in receivers {
            drain(receiver, |datagram, received| {
                if datagram.len() == size
                    && let Ok(number) = datagram[NUMBER].try_into().map(u64::from_be_bytes)
                {
                    arrivals.record(number, schedule.latency(number, received));
                }
            })?;
        }
        if last {
            return Ok(arrivals);
        }
        thread::sleep(POLL);
    }
}

fn drain(receiver: &UdpSocket, mut each: impl FnMut(&[u8], Duration)) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match system::receive_stamped(receiver, &mut buffer) {
            Ok((len, received)) => each(&buffer[..len], received),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // From before timestamps were asked for.
            Err(error) if error.kind() == ErrorKind::Other => {}
            // The peer reported that its port is closed.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("failed to receive"),
        }
    }
}

/// The numbers that arrived.
#[derive(Debug, Default)]
struct Arrivals {
    words: Vec<u64>,
    repeated: u64,
    latencies: Latencies,
}

impl Arrivals {
    fn record(&mut self, number: u64, latency: Duration) {
        if number >= MOST {
            return;
        }
        self.latencies.record(number, latency);
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

    fn report(&self, sent: u64, rate: u32, sessions: usize) -> DeliveryReport {
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
        DeliveryReport {
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
        let mut arrivals = Arrivals::default();
        for number in (0..100).chain(110..1_000).chain([500, MOST]) {
            arrivals.record(number, Duration::ZERO);
        }
        let report = arrivals.report(1_000, 100, 4);
        let expected = DeliveryReport {
            sent: 1_000,
            lost: 10,
            repeated: 1,
            longest_gap: Duration::from_millis(100),
            sessions: 4,
        };
        assert_eq!(report, expected);
    }

    #[test]
    fn latency_is_that_of_the_datagrams_asked_for() {
        let mut latencies = Latencies::default();
        for number in (0..1_000).filter(|number| number % 7 != 0) {
            let slow = number % 50 == 1;
            let millis = if slow { number } else { 1 };
            latencies.record(number, Duration::from_millis(millis));
        }
        latencies.record(1, Duration::from_secs(5_000));
        assert_eq!(latencies.p99_us(0..40), Some(1e3), "the first copy counts");
        assert!(latencies.p99_us(500..600).is_some_and(|p99| p99 > 500e3));
        assert_eq!(latencies.p99_us(1_000..2_000), None);
        assert_eq!(latencies.p99_us(7..8), None);
    }

    #[test]
    fn session_of_which_nothing_arrives_any_more_is_lost() {
        let mut arrivals = Arrivals::default();
        (0..1_000)
            .filter(|number| number % 4 != 1 || *number < 800)
            .for_each(|number| arrivals.record(number, Duration::ZERO));
        assert_eq!(arrivals.report(1_000, 100, 4).sessions, 3);
    }
}
