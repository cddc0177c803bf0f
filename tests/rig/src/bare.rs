//! A relay without a tailnet: a process that allocates sessions over its standard streams, as
//! `tests/rig/tools/tailnet/relay` and `examples/bare_relay.rs` do.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::signals;

/// Longest wait for a process that was asked to end.
const GRACE: Duration = Duration::from_secs(3);

/// The running relay; its process ends when this is dropped.
#[derive(Debug)]
pub struct BareRelay {
    /// The disco key that seals requests.
    pub node: [u8; 32],
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl BareRelay {
    /// Starts a relay, and waits until its port is bound.
    ///
    /// # Errors
    /// The relay does not start; the text has its output.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start a relay")?;
        let output = child.stdout.take().context("it has an output")?;
        let mut relay = Self {
            node: [0; 32],
            input: child.stdin.take(),
            output: BufReader::new(output),
            child,
        };
        let line = relay.read_line()?;
        let words: Vec<_> = line.split_whitespace().collect();
        let ["ready", key, _port] = words[..] else {
            bail!("the relay said {line:?}");
        };
        let key = hex::decode(key).context("it named no key")?;
        relay.node = key.try_into().ok().context("keys have 32 bytes")?;
        Ok(relay)
    }

    /// Answers to allocation requests, in their order; an empty one is a refusal.
    pub fn ask(&mut self, requests: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        let text: String = requests
            .iter()
            .map(|frame| hex::encode(frame) + "\n")
            .collect();
        self.write(&text)?;
        requests
            .iter()
            .map(|_| hex::decode(&self.read_line()?).context("an answer is hexadecimal"))
            .collect()
    }

    /// Sends a line, and reads the line that answers it.
    pub fn say(&mut self, line: &str) -> Result<String> {
        self.write(&format!("{line}\n"))?;
        self.read_line()
    }

    /// Kills the relay, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The process id of the relay.
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
        if self.output.read_line(&mut line)? == 0 {
            let mut said = String::new();
            if let Some(mut errors) = self.child.stderr.take() {
                errors.read_to_string(&mut said).ok();
            }
            bail!("the relay ended: {}", said.trim());
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for BareRelay {
    fn drop(&mut self) {
        // The relay ends when its input is closed.
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
