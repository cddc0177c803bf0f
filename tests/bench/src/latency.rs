//! Time that datagrams spend on a path, at a fixed rate.
//!
//! Each datagram has a time at which it is due, and its latency counts from then, whenever it was
//! really sent: a stall that delays ten datagrams is seen ten times. The kernel notes when it
//! received them, so that no receiver has to be awake.

use std::{net::UdpSocket, thread, time::Duration};

use anyhow::{Result, ensure};
use rig::signals;

use super::{load::Flow, system};

/// Datagrams per second.
pub const RATE: u32 = 10_000;
/// Sent before what counts.
const WARM_UP: u32 = RATE / 10;
/// Behind the header: the datagram's number.
const NUMBER: std::ops::Range<usize> = 8..12;

/// Latencies in microseconds, and what did not arrive.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// The 99th percentile, in microseconds.
    pub p99: f64,
    /// Datagrams that did not arrive.
    pub lost: u32,
}

/// Sends the flows in turn for `time`; `receivers` are where they arrive.
pub fn run(flows: &mut [Flow], receivers: &[UdpSocket], time: Duration) -> Result<Latency> {
    for receiver in receivers {
        system::set_timestamps(receiver)?;
        drain(receiver, |_, _| ())?;
    }
    let interval = Duration::from_secs(1) / RATE;
    let total = WARM_UP + (time.as_secs_f64() * f64::from(RATE)) as u32;
    let start = system::wall_clock()? + Duration::from_millis(2);
    system::run_first();
    let sent = send(flows, start, interval, total);
    system::run_like_others();
    sent?;
    // For those that are on their way.
    thread::sleep(Duration::from_millis(100));
    let mut latencies = Vec::with_capacity(total as usize);
    for receiver in receivers {
        drain(receiver, |number, stamp| {
            if (WARM_UP..total).contains(&number) {
                let latency = stamp.saturating_sub(start + interval * number);
                latencies.push(latency.as_secs_f64() * 1e6);
            }
        })?;
    }
    signals::check()?;
    ensure!(
        !latencies.is_empty(),
        "no datagram of the latency probe arrived"
    );
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize];
    Ok(Latency {
        p50: at(0.5),
        p99: at(0.99),
        lost: total - WARM_UP - latencies.len() as u32,
    })
}

fn send(flows: &mut [Flow], start: Duration, interval: Duration, total: u32) -> Result<()> {
    let count = flows.len();
    for number in 0..total {
        let wait = (start + interval * number).saturating_sub(system::wall_clock()?);
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let flow = &mut flows[number as usize % count];
        flow.bytes[NUMBER].copy_from_slice(&number.to_be_bytes());
        flow.socket.send(&flow.bytes)?;
    }
    Ok(())
}

fn drain(receiver: &UdpSocket, mut each: impl FnMut(u32, Duration)) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        match system::receive_stamped(receiver, &mut buffer) {
            Ok((len, stamp)) if len >= NUMBER.end => {
                let number = buffer[NUMBER].try_into().map(u32::from_be_bytes)?;
                each(number, stamp);
            }
            // Also those from before timestamps were asked for, which have none.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Other => {}
            Err(error) => return Err(error.into()),
        }
    }
}
