//! `cargo dev bench memory`: what relays and operators that run on this machine take.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::server;
use super::table::number;

/// Prints the memory of every running relay and operator, in pods or not.
pub fn run() -> Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        if let Some(role) = role(&entry.path())
            && let Ok(memory) = server::memory(pid)
        {
            found.push((role, pid, memory));
        }
    }
    ensure!(
        !found.is_empty(),
        "neither relay nor operator runs here: `cargo dev up` and a PeerRelay, or `cargo dev test`"
    );
    found.sort_by_key(|(role, pid, _)| (*role, *pid));
    println!(
        "{:<9} {:>8} {:>10} {:>10}",
        "ROLE", "PID", "RSS", "ANONYMOUS"
    );
    for (role, pid, memory) in found {
        let mib = |bytes: u64| number(Some(bytes as f64 / f64::from(1 << 20)), 1);
        println!(
            "{role:<9} {pid:>8} {:>6} MiB {:>6} MiB",
            mib(memory.rss),
            mib(memory.anonymous)
        );
    }
    Ok(())
}

/// What a process of this program does, if it is one.
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
