//! The conditions of a run: machine, kernel and commit.

use std::fs;

use anyhow::Result;
use rig::{
    command::{program, run},
    state::repository,
};

use super::{implementation::Implementation, row::Conditions, topology};

/// Reads the conditions from the machine.
pub fn read() -> Result<Conditions> {
    let mut git = program("git");
    git.current_dir(repository())
        .args(["rev-parse", "--short", "HEAD"]);
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
        .unwrap_or("unknown processor")
        .trim();
    let count = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let offloads = topology::offloads(Implementation::Direct);
    Ok(Conditions {
        date: run(program("date").args(["-u", "+%Y-%m-%d"]))?
            .trim()
            .into(),
        // Sources need not come from git.
        commit: run(&mut git)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .into(),
        machine: format!("{count} x {model}"),
        offloads: format!(
            "veth, MTU 1500: {}",
            offloads.as_deref().unwrap_or("as the kernel makes it")
        ),
        ..Conditions::default()
    })
}
