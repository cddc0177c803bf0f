//! `peerrelay prepare-state`: what an init container does for a relay that runs as another user.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;

#[derive(Args)]
pub(super) struct PrepareStateArgs {
    /// A directory; may be repeated
    #[arg(long = "dir", required = true)]
    dirs: Vec<PathBuf>,
    /// User and group that will own it
    #[arg(long)]
    owner: u32,
}

impl PrepareStateArgs {
    /// Makes the directories, closes them to others and gives them to the owner.
    pub(super) fn run(self) -> anyhow::Result<()> {
        for dir in &self.dirs {
            prepare(dir, self.owner)
                .with_context(|| format!("failed to prepare state directory {}", dir.display()))?;
        }
        Ok(())
    }
}

fn prepare(dir: &Path, owner: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)?;
    give(dir, owner)
}

/// Gives a directory and what is in it to `owner`; mode 0700. It may have belonged to another: root
/// without further capabilities can open what it owns.
fn give(directory: &Path, owner: u32) -> io::Result<()> {
    chown(directory, Some(0), Some(0))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), owner)?;
        } else {
            lchown(entry.path(), Some(owner), Some(owner))?;
        }
    }
    chown(directory, Some(owner), Some(owner))
}
