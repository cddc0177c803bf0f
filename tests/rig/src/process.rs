//! Processes that keep running after the rig's own has ended, recorded so that they can be stopped.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    command::{find, program},
    signals,
    state::State,
};

const GRACE: Duration = Duration::from_secs(5);
const DEATH: Duration = Duration::from_secs(10);
const LOG_TAIL: usize = 15;

/// Processes of this machine, in pods or not, with their directories in /proc. Any may end while it
/// is looked at.
pub fn running() -> io::Result<impl Iterator<Item = (i32, PathBuf)>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))))
}

/// A program to start: its arguments, environment, namespaces and cgroups.
#[derive(Debug)]
pub struct Spec {
    name: String,
    namespace: String,
    mounts_of: Option<i32>,
    cgroups: Vec<PathBuf>,
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Spec {
    /// A program in a network namespace.
    pub fn new(name: impl Into<String>, namespace: impl Into<String>, program: &Path) -> Self {
        Self {
            name: name.into(),
            namespace: namespace.into(),
            mounts_of: None,
            cgroups: Vec::new(),
            words: vec![program.display().to_string()],
            environment: Vec::new(),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.words.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Gives it the mount namespace of a process that runs.
    pub fn mounts_of(mut self, pid: i32) -> Self {
        self.mounts_of = Some(pid);
        self
    }

    /// Puts it into cgroups, one directory for each hierarchy.
    pub fn cgroups(mut self, directories: Vec<PathBuf>) -> Self {
        self.cgroups = directories;
        self
    }
}

/// The record of a process that the rig started.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ProcessRecord {
    /// The name of the part, unique in the rig.
    pub name: String,
    /// The process id, which only together with `start_time` names one process.
    pub pid: i32,
    /// The start time in clock ticks since boot.
    pub start_time: u64,
    /// The network namespace it runs in.
    pub namespace: String,
    /// The file with its output.
    pub log: PathBuf,
}

impl ProcessRecord {
    /// Says whether this very process still runs.
    pub fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, start)| start == self.start_time && state != 'Z')
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Waits until `probe` holds; the error has the last failure and the end of the log.
    pub fn wait_until(&self, deadline: Duration, probe: impl FnMut() -> Result<()>) -> Result<()> {
        wait_until(deadline, || self.alive(), probe).map_err(|error| {
            if signals::check().is_err() {
                return error;
            }
            let (log, tail) = (self.log.display(), self.log_tail());
            error.context(format!(
                "{} is not ready; {log} ends with\n{tail}",
                self.name
            ))
        })
    }
}

/// Repeats `probe` until it succeeds, the time is over, or `alive` no longer holds.
pub fn wait_until(
    deadline: Duration,
    alive: impl Fn() -> bool,
    mut probe: impl FnMut() -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        signals::check()?;
        let Err(error) = probe() else {
            return Ok(());
        };
        if !alive() {
            return Err(error.context("the process has ended"));
        }
        if start.elapsed() > deadline {
            return Err(error.context(format!("not within {} s", deadline.as_secs())));
        }
        thread::sleep(Duration::from_millis(150));
    }
}

/// The processes of one rig.
#[derive(Clone, Debug)]
pub struct Processes {
    records: PathBuf,
    logs: PathBuf,
}

impl Processes {
    /// Opens the records in the state directory.
    pub fn open(state: &State) -> Result<Self> {
        Ok(Self {
            records: state.dir("processes")?,
            logs: state.dir("logs")?,
        })
    }

    /// Starts a program and records it before it can be lost.
    pub fn start(&self, spec: &Spec) -> Result<ProcessRecord> {
        signals::check()?;
        if self.find(&spec.name).is_some_and(|record| record.alive()) {
            bail!("{} runs already", spec.name);
        }
        let log = self.log(&spec.name);
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("failed to open {}", log.display()))?;
        let mut child = self
            .command(spec, output)?
            .spawn()
            .with_context(|| format!("failed to start {}", spec.name))?;
        let pid = i32::try_from(child.id())?;
        let start_time = stat(pid).map_or(0, |(_, start)| start);
        let record = ProcessRecord {
            name: spec.name.clone(),
            pid,
            start_time,
            namespace: spec.namespace.clone(),
            log,
        };
        fs::write(
            self.record_file(&spec.name),
            serde_json::to_vec_pretty(&record)?,
        )?;
        // Without this, a child that ended would stay as a zombie while the rig's process runs.
        thread::spawn(move || child.wait());
        Ok(record)
    }

    /// The log of a part.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// The record of a part.
    pub fn find(&self, name: &str) -> Option<ProcessRecord> {
        serde_json::from_slice(&fs::read(self.record_file(name)).ok()?).ok()
    }

    /// All records, in order of their start.
    pub fn list(&self) -> Result<Vec<ProcessRecord>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.records)? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            records.extend(self.find(&name));
        }
        records.sort_by(|a, b| (a.start_time, &a.name).cmp(&(b.start_time, &b.name)));
        Ok(records)
    }

    /// Stops a part: asks, waits, then kills.
    pub fn stop(&self, name: &str) -> Result<()> {
        self.stop_all(self.find(name).as_slice(), GRACE)
    }

    /// Kills a part without asking, as a crash would.
    pub fn kill(&self, name: &str) -> Result<()> {
        let Some(record) = self.find(name) else {
            return Ok(());
        };
        self.end(&[record], Duration::ZERO)
    }

    /// Stops several parts at once.
    pub fn stop_all(&self, records: &[ProcessRecord], grace: Duration) -> Result<()> {
        for record in records.iter().filter(|record| record.alive()) {
            signals::terminate(record.pid);
        }
        self.end(records, grace)
    }

    fn end(&self, records: &[ProcessRecord], grace: Duration) -> Result<()> {
        let start = Instant::now();
        while records.iter().any(ProcessRecord::alive) {
            if start.elapsed() > grace + DEATH {
                bail!("failed to stop a process, see {}", self.records.display());
            }
            if start.elapsed() >= grace {
                for record in records.iter().filter(|record| record.alive()) {
                    signals::kill(record.pid);
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
        for record in records {
            fs::remove_file(self.record_file(&record.name)).ok();
        }
        Ok(())
    }

    /// nsenter and sh replace themselves with what follows, so the child's id is the program's.
    fn command(&self, spec: &Spec, output: File) -> Result<std::process::Command> {
        let nsenter = find(Path::new("nsenter")).context("failed to find nsenter")?;
        let mut command = program("sh");
        command.arg("-c").arg(
            "while [ \"$1\" != -- ]; do echo $$ > \"$1/cgroup.procs\" || exit; shift; done; \
             shift; exec \"$@\"",
        );
        command.arg("sh").args(&spec.cgroups).arg("--").arg(nsenter);
        command.arg(format!("--net=/run/netns/{}", spec.namespace));
        if let Some(pid) = spec.mounts_of {
            command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
        }
        command
            .arg("--")
            .args(&spec.words)
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdout(output.try_clone()?)
            .stderr(output)
            .stdin(Stdio::null())
            .current_dir("/")
            // An interrupt at the terminal is for the rig, which then stops its parts in order.
            .process_group(0);
        Ok(command)
    }

    fn record_file(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }
}

/// State and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before the last parenthesis may itself have spaces; the state is field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_with_other_start_time_is_not_alive() {
        let pid = i32::try_from(std::process::id()).expect("ids are small");
        let (_, start_time) = stat(pid).expect("it runs");
        let mut record = ProcessRecord {
            name: "self".into(),
            pid,
            start_time,
            namespace: String::new(),
            log: PathBuf::new(),
        };
        assert!(record.alive());
        record.start_time += 1;
        assert!(!record.alive());
    }
}
