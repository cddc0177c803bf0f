//! Traces of pods and processes, collected while these exist: the kubelet removes the logs of a deleted pod.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use rig::{Rig, process};

/// Interval at which log files are collected. No pod is created and deleted within it.
const INTERVAL: Duration = Duration::from_millis(250);
/// Number of these intervals between two collections of processes.
const ROUNDS: usize = 8;
/// The path of a pod's token, below its root.
const TOKEN_FILE: &str = "var/run/secrets/kubernetes.io/serviceaccount/token";

/// The places of collected traces; gone with the rig.
#[derive(Debug)]
pub(crate) struct Places {
    /// Directory with the logs of all pods.
    pub(crate) logs: PathBuf,
    /// File with the tokens of all pods, one a line.
    pub(crate) tokens: PathBuf,
    /// File with the argument lists of all processes, one a line.
    pub(crate) arguments: PathBuf,
}

impl Places {
    /// The places of a rig.
    pub(crate) fn of(rig: &Rig) -> Result<Self> {
        let dir = rig.scratch("traces")?;
        Ok(Self {
            logs: rig.scratch("traces/pod-logs")?,
            tokens: dir.join("tokens"),
            arguments: dir.join("arguments"),
        })
    }
}

/// A thread that collects traces.
#[derive(Debug)]
pub(crate) struct Collector {
    thread: Option<JoinHandle<Result<()>>>,
    ended: Arc<AtomicBool>,
}

impl Collector {
    /// Starts the thread that collects traces of a rig.
    pub(crate) fn start(rig: &Rig) -> Result<Self> {
        let places = Places::of(rig)?;
        let nodes: Vec<_> = rig.nodes.iter().map(|node| node.pod_logs()).collect();
        let mut tokens = Lines::create(&places.tokens)?;
        let mut arguments = Lines::create(&places.arguments)?;
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        let thread = thread::spawn(move || {
            let mut known = BTreeSet::new();
            for round in 0.. {
                for dir in &nodes {
                    link_all(dir, &places.logs, &mut known)?;
                }
                if round % ROUNDS == 0 {
                    collect_processes(&mut tokens, &mut arguments)?;
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(INTERVAL);
            }
            Ok(())
        });
        Ok(Self {
            thread: Some(thread),
            ended,
        })
    }

    /// Ends the thread; fails if something could not be collected.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread
            .join()
            .map_err(|_| anyhow!("the thread that collects traces panicked"))?
            .context("failed to collect traces")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// A file that only its owner may read, with lines that differ.
#[derive(Debug)]
struct Lines {
    file: File,
    known: BTreeSet<String>,
}

impl Lines {
    fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            file,
            known: BTreeSet::new(),
        })
    }

    fn add(&mut self, line: String) -> Result<()> {
        if !self.known.contains(&line) {
            writeln!(self.file, "{line}")?;
            self.known.insert(line);
        }
        Ok(())
    }
}

/// Adds the argument list of each process and, if it runs in a pod, the pod's token as the process sees
/// it: what the kubelet mounts is hidden from others.
fn collect_processes(tokens: &mut Lines, arguments: &mut Lines) -> Result<()> {
    let own = fs::metadata("/")?;
    for (_, process) in process::running()? {
        // A process may have ended since it was listed.
        if let Ok(words) = fs::read(process.join("cmdline")) {
            arguments.add(String::from_utf8_lossy(&words).replace(['\0', '\n'], " "))?;
        }
        let root = process.join("root");
        let Ok(of) = fs::metadata(&root) else {
            continue;
        };
        // This machine may be a pod itself; its token is none of the rig's.
        if (of.dev(), of.ino()) != (own.dev(), own.ino())
            && let Ok(token) = fs::read_to_string(root.join(TOKEN_FILE))
        {
            tokens.add(token.trim().to_owned())?;
        }
    }
    Ok(())
}

/// Gives each file below `from` a second name in `to`, once. Its content outlives the first name; a
/// rotated log is another file.
fn link_all(from: &Path, to: &Path, known: &mut BTreeSet<u64>) -> Result<()> {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        // A file that vanishes now was there in the last round.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let path = entry.path();
        if metadata.is_dir() {
            link_all(&path, to, known)?;
        } else if metadata.is_file() && !known.contains(&metadata.ino()) {
            let pod = path.iter().rev().nth(2).unwrap_or_default();
            let link = to.join(format!("{}_{}", pod.to_string_lossy(), metadata.ino()));
            let linked = fs::hard_link(&path, &link);
            ensure!(
                linked.is_ok() || !path.exists() || link.exists(),
                "failed to link {}: {linked:?}",
                path.display()
            );
            known.insert(metadata.ino());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_a_deleted_pod_are_kept_to_their_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("pods"), dir.path().join("kept"));
        let container = from.join("relays_edge_1/relay");
        fs::create_dir_all(&container).expect("a pod");
        fs::create_dir_all(&to).expect("a directory");
        fs::write(container.join("0.log"), "first\n").expect("a log");
        let mut known = BTreeSet::new();
        link_all(&from, &to, &mut known).expect("it is linked");
        let log = File::options().append(true).open(container.join("0.log"));
        log.expect("a log").write_all(b"last\n").expect("a line");
        link_all(&from, &to, &mut known).expect("it is known");
        fs::remove_dir_all(&from).expect("it is removed");
        let kept: Vec<_> = fs::read_dir(&to).expect("kept").flatten().collect();
        assert_eq!(kept.len(), 1);
        let text = fs::read_to_string(kept[0].path()).expect("the log");
        assert_eq!(text, "first\nlast\n");
    }
}
