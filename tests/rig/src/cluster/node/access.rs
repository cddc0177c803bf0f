//! Directories of a node that its kernel does not let containers write to.

use anyhow::{Context, Result};

use super::Node;
use crate::command::{program, run};

/// A directory of a node that relays use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Directory {
    /// The BPF file system.
    Bpf,
    /// The parent of the directories with the identities of relays.
    State,
}

impl Node {
    /// Denies containers to write to a directory, as SELinux and AppArmor do on many nodes, or allows it
    /// again. Containers that run are affected too if it is the BPF file system.
    pub fn set_writable(&self, directory: Directory, writable: bool) -> Result<()> {
        let holder = self.record("mounts").context("the node has no mounts")?;
        let (path, bind) = match directory {
            Directory::Bpf => ("/sys/fs/bpf", ""),
            Directory::State => ("/var/lib/peerrelay", "bind,"),
        };
        let access = if writable { "rw" } else { "ro" };
        let mut mount = program("nsenter");
        mount.arg(format!("--mount=/proc/{}/ns/mnt", holder.pid));
        mount.args(["mount", "-o", &format!("remount,{bind}{access}"), path]);
        run(&mut mount).map(drop)
    }
}
