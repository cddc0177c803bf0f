//! `peerrelay prepare-state`: what an init container does for a relay that runs as another user.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;

#[derive(Args)]
pub(super) struct PrepareStateArgs {
    /// The directory
    #[arg(long)]
    dir: PathBuf,
    /// User and group that will own it
    #[arg(long)]
    owner: u32,
}

impl PrepareStateArgs {
    /// Makes the directory, closes it to others and gives it to the owner.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let context = || format!("failed to prepare state directory {}", self.dir.display());
        let builder = || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)
        };
        builder().with_context(context)?;
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700)).with_context(context)?;
        chown(&self.dir, Some(self.owner), Some(self.owner)).with_context(context)
    }
}
