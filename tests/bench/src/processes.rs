//! `cargo dev bench memory`: what the operator and its relays take on a cluster.

use std::{fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use rig::{Rig, build::Profile, deployment::Deployment, process, progress::Progress, signals};
use serde_json::json;

use super::{server, table::mib};

/// The time at which to measure.
#[derive(Debug, clap::Args)]
pub struct MemoryArgs {
    /// Seconds after everything is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    after: u64,
}

/// Brings a rig up with the program as released, and prints what its processes take.
pub fn run(args: &MemoryArgs) -> Result<()> {
    let progress = Progress::stderr();
    let rig = Rig::up(Profile::Release, &progress)?;
    let shown = show(&rig, args, &progress);
    signals::acknowledge();
    rig.down(&progress)?;
    shown
}

fn show(rig: &Rig, args: &MemoryArgs, progress: &Progress) -> Result<()> {
    let deployment = Deployment::install(rig)?;
    deployment.write_secret(&rig.tailnet.auth_key()?)?;
    deployment.apply("edge", &json!({}))?;
    deployment.wait_ready("edge")?;
    progress.line(format_args!(
        "one PeerRelay is ready; {} s for all to settle",
        args.after
    ));
    signals::pause(Duration::from_secs(args.after))?;
    print()
}

/// Prints the memory of every relay and operator on this machine.
fn print() -> Result<()> {
    let mut found = Vec::new();
    for (pid, entry) in process::running()? {
        if let Some(role) = role(&entry)
            && let Ok(memory) = server::memory(pid)
        {
            found.push((role, pid, memory));
        }
    }
    ensure!(!found.is_empty(), "neither relay nor operator runs");
    found.sort_by_key(|(role, pid, _)| (*role, *pid));
    println!(
        "{:<9} {:>8} {:>10} {:>10}",
        "ROLE", "PID", "RSS", "ANONYMOUS"
    );
    for (role, pid, memory) in found {
        println!(
            "{role:<9} {pid:>8} {:>6} MiB {:>6} MiB",
            mib(Some(memory.rss)),
            mib(Some(memory.anonymous))
        );
    }
    Ok(())
}

/// The role of a process of this program; `None` for others.
fn role(process: &Path) -> Option<&'static str> {
    let line = fs::read(process.join("cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let program = Path::new(str::from_utf8(words.next()?).ok()?);
    if program.file_name()? != "peerrelay" {
        return None;
    }
    match words.next()? {
        b"relay" => Some("relay"),
        b"operator" => Some("operator"),
        _ => None,
    }
}
