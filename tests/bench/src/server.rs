//! A relay under measurement.

use std::{collections::BTreeMap, net::SocketAddr, thread, time::Duration};

use anyhow::{Context, Result};
use rig::{bare::BareRelay, command::program_in};

use super::{
    implementation::{Implementation, Programs},
    system,
    topology::{Family, Link, Side},
};

/// The time in which memory settles.
const SETTLE: Duration = Duration::from_millis(1500);

/// A running relay; it ends with this.
#[derive(Debug)]
pub struct Server {
    /// The implementation.
    pub implementation: Implementation,
    /// The UDP port of the relay.
    pub port: u16,
    /// The process of the relay.
    pub relay: BareRelay,
}

/// The counters of a relay since its start.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// Sessions that are open.
    pub sessions: u64,
    /// Messages of handshakes that it has answered or acted on.
    pub handshakes: u64,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident memory.
    pub rss: u64,
    /// Resident and neither shared nor backed by a file.
    pub anonymous: u64,
    /// Memory of BPF maps, which no process is charged for.
    pub bpf: u64,
}

impl Server {
    /// Starts a relay in its namespace and waits until its port is bound.
    ///
    /// # Errors
    /// The relay does not start; the text has its output.
    pub fn start(implementation: Implementation, programs: &Programs, port: u16) -> Result<Self> {
        Self::start_with(implementation, programs, port, &[])
    }

    /// Starts a relay with more arguments.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(
        implementation: Implementation,
        programs: &Programs,
        port: u16,
        arguments: &[String],
    ) -> Result<Self> {
        let link = Link::of(implementation);
        let addresses = [
            (Side::A, Family::V4),
            (Side::B, Family::V4),
            (Side::A, Family::V6),
            (Side::B, Family::V6),
        ]
        .map(|(side, family)| SocketAddr::new(link.relay(side, family), port).to_string());
        let mut command = program_in(&link.namespace(), programs.of(implementation));
        command.arg(format!("--port={port}"));
        match implementation.data_path() {
            None => {
                command.arg(format!("--addresses={}", addresses.join(",")));
            }
            Some(data_path) => {
                command.arg(format!("--data-path={data_path}"));
                command.args(addresses.map(|address| format!("--address={address}")));
            }
        }
        let relay = BareRelay::start(command.args(arguments))
            .with_context(|| format!("the {implementation} relay"))?;
        Ok(Self {
            implementation,
            port,
            relay,
        })
    }

    /// The memory of the relay once it has released what it does not need: Go's by two collections, ours when
    /// it has heard nothing for a second.
    pub fn settled_memory(&mut self) -> Result<Memory> {
        thread::sleep(SETTLE);
        self.relay.say("settle")?;
        memory(self.pid()?)
    }

    /// The counters of the relay; `None` for a relay that does not report them.
    pub fn count(&mut self) -> Result<Option<Count>> {
        let line = self.relay.say("count")?;
        let numbers: Vec<_> = line
            .split(' ')
            .map_while(|word| word.parse().ok())
            .collect();
        Ok(match numbers[..] {
            [sessions, handshakes] => Some(Count {
                sessions,
                handshakes,
            }),
            _ => None,
        })
    }

    /// CPU time it has used.
    pub fn cpu_time(&self) -> Result<Duration> {
        system::cpu_time(self.pid()?)
    }

    /// The process id of the relay.
    pub fn pid(&self) -> Result<i32> {
        self.relay.pid()
    }
}

/// The memory of a process, from /proc.
pub fn memory(pid: i32) -> Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .context("failed to read the memory of a process")?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    };
    Ok(Memory {
        rss: field("Rss:").context("it has a resident size")?,
        anonymous: field("Anonymous:").unwrap_or_default(),
        bpf: bpf_memory(pid)?,
    })
}

/// The memory of the BPF maps that a process has open, each counted once, in bytes.
fn bpf_memory(pid: i32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed before it is read.
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        if let (Some(map), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(map, bytes);
        }
    }
    Ok(maps.values().sum())
}
