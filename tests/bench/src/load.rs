//! Load, and what arrives of it.
//!
//! The sender keeps a bounded amount on its way: it goes as fast as the path delivers and makes no
//! overload whose losses would cost time that nothing is delivered for.

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::UdpSocket,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rig::signals;

use super::{
    cpu::{Cpu, Used},
    system::{self, BURST},
    topology::{Family, Link, Side},
};

/// Most that is on its way: datagrams, and bytes.
const WINDOW: (u64, u64) = (2048, 2 << 20);
/// The time without an arrival after which datagrams on their way count as lost.
const LOST: Duration = Duration::from_millis(20);
/// Pauses while the window is full.
const PAUSE: (Duration, Duration) = (Duration::from_micros(30), Duration::from_micros(1000));

/// A flow of the load.
#[derive(Debug)]
pub struct Flow {
    /// A connected socket.
    pub socket: UdpSocket,
    /// The buffer that is sent over and over; several datagrams when the kernel is to cut it.
    pub bytes: Vec<u8>,
}

/// A source of buffers to send.
pub trait Source {
    /// Sends the next one; says how many datagrams that were.
    fn send(&mut self) -> io::Result<u64>;
}

/// Flows that take turns.
struct Turns<'a> {
    flows: &'a [Flow],
    size: usize,
    next: usize,
}

impl Source for Turns<'_> {
    fn send(&mut self) -> io::Result<u64> {
        let flow = &self.flows[self.next];
        self.next = (self.next + 1) % self.flows.len();
        let segments = (flow.bytes.len() / self.size) as u64;
        if segments == 1 && self.flows.len() == 1 {
            system::send_many(&flow.socket, &flow.bytes, BURST).map(|count| count as u64)
        } else {
            flow.socket.send(&flow.bytes).map(|_| segments)
        }
    }
}

/// The result of a round.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Buffers that they arrived in; fewer than datagrams where they stayed together.
    pub buffers: u64,
    /// The time and the CPU time of the round.
    pub used: Used,
}

/// The kernel's count of what a device received.
#[derive(Debug)]
pub struct Arrivals {
    file: File,
    device: &'static str,
    overhead: u64,
    size: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    datagrams: u64,
    buffers: u64,
}

impl Arrivals {
    /// Counts datagrams of `size` bytes that arrive at the receiving client.
    pub fn of(link: Link, family: Family, size: usize) -> Result<Self> {
        // The file belongs to the network namespace of who opens it.
        let file = system::inside(Side::B.namespace(), || {
            File::open("/proc/thread-self/net/dev").context("failed to open /proc/net/dev")
        })?;
        let ip = match family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        Ok(Self {
            file,
            device: link.device(),
            overhead: 14 + ip + 8,
            size: size as u64,
        })
    }

    fn read(&self) -> Result<Count> {
        let mut text = [0; 8192];
        let mut len = 0;
        loop {
            let read = self.file.read_at(&mut text[len..], len as u64)?;
            if read == 0 {
                break;
            }
            len += read;
        }
        let text = str::from_utf8(&text[..len])?;
        let (bytes, buffers) = received(text, self.device).context("the device is gone")?;
        // A buffer of several datagrams has the headers of one.
        let payload = bytes.saturating_sub(buffers * self.overhead);
        Ok(Count {
            datagrams: payload / self.size,
            buffers,
        })
    }
}

/// Bytes and buffers that a device has received, by the text of /proc/net/dev.
fn received(text: &str, device: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let mut fields = line.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Sends all flows in turn for `warm_up` and then for `time`, which is measured.
pub fn run(
    flows: &[Flow],
    size: usize,
    arrivals: &Arrivals,
    cpu: &Cpu,
    warm_up: Duration,
    time: Duration,
) -> Result<Delivery> {
    let next = 0;
    let mut turns = Turns { flows, size, next };
    run_from(&mut turns, size, arrivals, cpu, warm_up, time)
}

/// Runs a round with any source of datagrams of `size` bytes.
pub fn run_from(
    source: &mut impl Source,
    size: usize,
    arrivals: &Arrivals,
    cpu: &Cpu,
    warm_up: Duration,
    time: Duration,
) -> Result<Delivery> {
    let mut sender = Sender {
        source,
        size,
        arrivals,
        sent: 0,
        base: arrivals.read()?.datagrams,
        arrived: 0,
        lost: 0,
        rate: 100_000.0,
    };
    sender.run_for(warm_up)?;
    let (start, lost, clocks) = (arrivals.read()?, sender.lost, cpu.read()?);
    sender.run_for(time)?;
    let (end, used) = (arrivals.read()?, cpu.since(clocks)?);
    // What is left on its way is not this round's, and must not be the next one's.
    sender.drain()?;
    signals::check()?;
    Ok(Delivery {
        datagrams: end.datagrams - start.datagrams,
        lost: sender.lost - lost,
        buffers: end.buffers - start.buffers,
        used,
    })
}

struct Sender<'a, S> {
    source: &'a mut S,
    size: usize,
    arrivals: &'a Arrivals,
    sent: u64,
    base: u64,
    arrived: u64,
    lost: u64,
    /// Datagrams that arrive in a second.
    rate: f64,
}

impl<S: Source> Sender<'_, S> {
    fn run_for(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        let window = WINDOW.0.max(WINDOW.1 / self.size as u64);
        let mut burst = 0;
        loop {
            burst += 1;
            // Looking at the clock costs as much as a small part of sending.
            if burst % 16 == 0 && Instant::now() >= end {
                return Ok(());
            }
            self.send()?;
            if self.on_the_way() >= window {
                self.make_room(window, end)?;
            }
        }
    }

    fn send(&mut self) -> Result<()> {
        match self.source.send() {
            Ok(count) => self.sent += count,
            // A full buffer of the sender's own: nothing went.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error).context("failed to send"),
        }
        Ok(())
    }

    fn on_the_way(&self) -> u64 {
        self.sent.saturating_sub(self.arrived + self.lost)
    }

    /// Waits until a half of the window has arrived, or nothing does any more.
    fn make_room(&mut self, window: u64, end: Instant) -> Result<()> {
        let mut progress = Instant::now();
        loop {
            let before = self.arrived;
            let asked = progress;
            self.update()?;
            if self.on_the_way() <= window / 2 || Instant::now() >= end {
                return Ok(());
            }
            if self.arrived > before {
                let arrived = (self.arrived - before) as f64;
                let rate = arrived / asked.elapsed().as_secs_f64().max(1e-6);
                self.rate = self.rate.mul_add(0.7, rate * 0.3);
                progress = Instant::now();
            } else if progress.elapsed() > LOST {
                self.lost += self.on_the_way();
                return Ok(());
            }
            let quarter = Duration::from_secs_f64(window as f64 / 4.0 / self.rate.max(1000.0));
            thread::sleep(quarter.clamp(PAUSE.0, PAUSE.1));
        }
    }

    fn drain(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let before = self.arrived;
            self.update()?;
            if self.on_the_way() == 0 || (self.arrived == before && start.elapsed() > LOST) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn update(&mut self) -> Result<()> {
        self.arrived = self.arrivals.read()?.datagrams.saturating_sub(self.base);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes packets\n  go2:  9 9 0\n   go: 1442 1 0 0 0\n";
        assert_eq!(received(text, "go"), Some((1442, 1)));
        assert_eq!(received(text, "g"), None);
    }
}
