//! A relay under measurement: a process that gives out sessions over its standard streams.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use relay_proto::DiscoPublic;

use super::implementation::{Implementation, Programs};
use super::system;
use super::topology::{Family, Link, Side};
use crate::command::program_in;
use crate::signals;

/// Longest wait for a process that was told to end.
const GRACE: Duration = Duration::from_secs(3);

/// A running relay; it ends with this.
#[derive(Debug)]
pub struct Server {
    /// Which one.
    pub implementation: Implementation,
    /// The disco key that seals requests.
    pub node: DiscoPublic,
    /// Its UDP port.
    pub port: u16,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident and neither shared nor backed by a file.
    pub anonymous: u64,
    /// In BPF maps, which no process is charged for.
    pub bpf: u64,
}

impl Server {
    /// Starts a relay in its namespace and waits until its port is bound.
    ///
    /// # Errors
    /// It does not start; the text has what it said.
    pub fn start(implementation: Implementation, programs: &Programs, port: u16) -> Result<Self> {
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
        match implementation {
            Implementation::Go => {
                command.arg(format!("--addresses={}", addresses.join(",")));
            }
            other => {
                command.arg(format!("--data-path={other}"));
                command.args(addresses.map(|address| format!("--address={address}")));
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start the {implementation} relay"))?;
        let output = child.stdout.take().context("it has an output")?;
        let mut server = Self {
            implementation,
            node: DiscoPublic([0; 32]),
            port,
            input: child.stdin.take(),
            output: BufReader::new(output),
            child,
        };
        let line = server.read_line()?;
        let words: Vec<_> = line.split_whitespace().collect();
        let ["ready", key, _port] = words[..] else {
            bail!("the {implementation} relay said {line:?}");
        };
        let key = from_hex(key).context("it named no key")?;
        server.node = DiscoPublic(key.try_into().ok().context("keys have 32 bytes")?);
        Ok(server)
    }

    /// Answers to allocation requests, in their order; an empty one is a refusal.
    pub fn ask(&mut self, requests: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let text: String = requests.iter().map(|frame| to_hex(frame) + "\n").collect();
        self.write(&text)?;
        requests
            .iter()
            .map(|_| from_hex(&self.read_line()?).context("an answer is hexadecimal"))
            .collect()
    }

    /// Its memory once it has given back what it does not need.
    pub fn settled_memory(&mut self) -> Result<Memory> {
        self.write("settle\n")?;
        self.read_line()?;
        memory(self.pid()?)
    }

    /// CPU time it has used.
    pub fn cpu_time(&self) -> Result<Duration> {
        system::cpu_time(self.pid()?)
    }

    /// Its process id.
    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.child.id())?)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("it has an input")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    fn read_line(&mut self) -> Result<String> {
        signals::check()?;
        let mut line = String::new();
        let len = self.output.read_line(&mut line)?;
        if len == 0 {
            let mut said = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                std::io::Read::read_to_string(&mut errors, &mut said).ok();
            }
            ensure!(!said.is_empty(), "the {} relay ended", self.implementation);
            bail!("the {} relay ended: {}", self.implementation, said.trim());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends with its input.
        self.input = None;
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > GRACE {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What /proc says of a process.
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

/// What the kernel says of the BPF maps that a process has open, each once.
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

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
