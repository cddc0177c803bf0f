//! Subcommand `prepare-state`: an init container gives directories to the user of the relay.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown},
    path::{Path, PathBuf},
};

use clap::Args;

use crate::relay::tailnet::IdentityError;

#[derive(Args)]
pub(super) struct PrepareStateArgs {
    /// Directory to prepare; can be repeated
    #[arg(long = "dir", required = true)]
    dirs: Vec<PathBuf>,
    /// User ID and group ID of the new owner
    #[arg(long)]
    owner: u32,
}

/// Error from giving a directory to the relay.
#[derive(Debug, thiserror::Error)]
#[error("failed to prepare state directory {dir}")]
struct PrepareError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// Returns whether a command has failed because it may not use a directory of the relay.
pub(super) fn is_unusable(error: &anyhow::Error) -> bool {
    error.is::<PrepareError>() || matches!(error.downcast_ref(), Some(IdentityError::Io { .. }))
}

impl PrepareStateArgs {
    /// Creates the directories, removes access for others and changes their owner.
    pub(super) fn run(self) -> anyhow::Result<()> {
        for dir in &self.dirs {
            prepare(dir, self.owner).map_err(|source| PrepareError {
                dir: dir.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

fn prepare(dir: &Path, owner: u32) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)?;
    give(dir, owner)
}

/// Changes the owner of a directory and its contents, with mode 0700. Another user may have owned
/// it: root without further capabilities can open only what it owns.
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
