//! CPU time: of the whole machine, and of who takes part in a measurement.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rig::process;

use super::system;

/// The unit of /proc/stat: USER_HZ, which is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The source of CPU time.
#[derive(Debug)]
pub struct Cpu {
    participants: Vec<i32>,
    cpus: u32,
}

/// Clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    idle: Duration,
    participants: Duration,
}

/// The time and the CPU time between two readings.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    /// Wall time of the measurement.
    pub time: Duration,
    /// CPU time of the machine that was not idle, without what a hypervisor took.
    pub machine: Duration,
    /// CPU time of this process, the relay and the kernel's softirq threads. What a softirq does
    /// on top of somebody else's process is not in it.
    pub participants: Duration,
}

impl Cpu {
    /// Counts this process, the kernel's softirq threads, and `relay`.
    pub fn new(relay: Option<i32>) -> Result<Self> {
        let mut participants = vec![i32::try_from(std::process::id())?];
        participants.extend(relay);
        for (pid, entry) in process::running()? {
            let name = fs::read_to_string(entry.join("comm")).unwrap_or_default();
            if name.starts_with("ksoftirqd/") {
                participants.push(pid);
            }
        }
        let cpus = u32::try_from(thread::available_parallelism()?.get())?;
        Ok(Self { participants, cpus })
    }

    /// Reads the clocks.
    pub fn read(&self) -> Result<Reading> {
        let mut participants = Duration::ZERO;
        for pid in &self.participants {
            participants += system::cpu_time(*pid)?;
        }
        Ok(Reading {
            at: Instant::now(),
            idle: idle(&fs::read_to_string("/proc/stat")?).context("/proc/stat is unreadable")?,
            participants,
        })
    }

    /// The time and the CPU time since a reading.
    pub fn since(&self, start: Reading) -> Result<Used> {
        let end = self.read()?;
        let time = end.at - start.at;
        Ok(Used {
            time,
            machine: (time * self.cpus).saturating_sub(end.idle - start.idle),
            participants: end.participants - start.participants,
        })
    }
}

/// Time in which no CPU worked for us: idle, waiting for disks, or taken by a hypervisor.
fn idle(stat: &str) -> Option<Duration> {
    let mut fields = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    // user nice system idle iowait irq softirq steal
    let (_user, _nice, _system) = (ticks()?, ticks()?, ticks()?);
    let (idle, iowait, _irq, _softirq) = (ticks()?, ticks()?, ticks()?, ticks()?);
    Some(TICK * (idle + iowait + ticks()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_what_nobody_worked_in() {
        let stat = "cpu  10 20 30 400 50 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(idle(stat), Some(TICK * 458));
        assert_eq!(idle("intr 1"), None);
    }
}
