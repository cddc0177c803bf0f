//! Files of relays under measurement that outlive them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rig::{
    command::{program, run},
    state::State,
};

use super::implementation::Implementation;

/// A directory in memory, with a BPF file system of its own; both go with this.
#[derive(Debug)]
pub struct Legacy(PathBuf);

impl Legacy {
    /// Makes it, after removing what an earlier run left.
    pub fn make(state: &State) -> Result<Self> {
        let directory = state.dir("relays")?;
        unmount(&directory);
        let legacy = Self(directory);
        legacy.mount("tmpfs", &["-o", "mode=0700"], "")?;
        fs::create_dir(legacy.0.join("bpf"))?;
        legacy.mount("bpf", &[], "bpf")?;
        Ok(legacy)
    }

    /// Arguments of a relay that leaves its sessions there; Tailscale's leaves none.
    pub fn arguments(&self, implementation: Implementation) -> Vec<String> {
        let argument = |name: &str, directory: &str| {
            let directory = self.0.join(directory).join(implementation.name());
            format!("--{name}={}", directory.display())
        };
        match implementation {
            Implementation::Kernel => vec![argument("sessions", ""), argument("pins", "bpf")],
            Implementation::Socket => vec![argument("sessions", "")],
            _ => Vec::new(),
        }
    }

    /// Forgets what a relay has left.
    pub fn forget(&self, implementation: Implementation) {
        for directory in ["", "bpf"] {
            // Nothing is there of one that left nothing.
            fs::remove_dir_all(self.0.join(directory).join(implementation.name())).ok();
        }
    }

    fn mount(&self, kind: &str, options: &[&str], at: &str) -> Result<()> {
        let mut mount = program("mount");
        mount.args(["-t", kind]).args(options).arg("none");
        run(mount.arg(self.0.join(at)))
            .with_context(|| format!("failed to mount a file system ({kind})"))?;
        Ok(())
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        // Interrupted or not: nothing may stay.
        rig::signals::acknowledge();
        unmount(&self.0);
    }
}

fn unmount(directory: &Path) {
    // Fails when nothing is mounted.
    run(program("umount").arg("--recursive").arg(directory)).ok();
}
