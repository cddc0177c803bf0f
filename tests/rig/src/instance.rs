//! Several rigs on one machine.
//!
//! Names of network namespaces are the same in each rig: each of them but the usual one has a mount namespace in
//! which `/run/netns` is its own. Directories and control groups have the rig's name in theirs.

use std::{env, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::command::find;

/// The variable with the name of the rig that a program uses.
const VARIABLE: &str = "PEERRELAY_RIG";
/// Hides the network namespaces of other rigs, then runs its arguments.
const OWN_NAMESPACES: &str =
    "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec \"$@\"";

/// Adds the name of this process's rig to one that several rigs use. The usual rig has no name.
pub(crate) fn named(name: &str) -> String {
    match env::var(VARIABLE) {
        Ok(rig) if !rig.is_empty() => format!("{name}-{rig}"),
        _ => name.to_owned(),
    }
}

/// This program, to add arguments to, for the rig of this process, or for one of another name that may be up
/// beside it.
pub fn command(name: &str) -> Result<Command> {
    let program = env::current_exe().context("this program has no path")?;
    if name.is_empty() {
        return Ok(Command::new(program));
    }
    let unshare = find(Path::new("unshare")).context("failed to find unshare")?;
    let mut command = Command::new(unshare);
    command
        .args(["--mount", "--", "sh", "-c", OWN_NAMESPACES, "sh"])
        .arg(program)
        .env(VARIABLE, named(name));
    Ok(command)
}
