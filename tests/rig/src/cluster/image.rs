//! The images that the rig imports: those that `cargo dev image` makes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    image::{self, Image, PROGRAM},
    progress::Progress,
    state::State,
};

/// The image with the program under test.
pub const PEERRELAY: &str = "peerrelay.dev/peerrelay:dev";
/// The image that holds the namespaces of a pod.
pub const PAUSE: &str = "peerrelay.dev/pause:dev";

/// Checksum of the program in the archive.
const KEY_FILE: &str = "images.key";
/// Names the program on the host.
const PROGRAM_FILE: &str = "program";

/// An archive with both images.
#[derive(Clone, Debug)]
pub struct Images {
    archive: PathBuf,
    changed: bool,
}

impl Images {
    /// Builds the program and, if it changed, the archive.
    pub fn build(state: &State, profile: Profile, progress: &Progress) -> Result<Self> {
        Self::of(state, &build::peerrelay(profile, progress)?)
    }

    /// Packs a program that was built, unless it is the one in the archive.
    pub fn of(state: &State, program: &Path) -> Result<Self> {
        fs::write(state.path(PROGRAM_FILE), program.display().to_string())?;
        let archive = state.path("images.tar");
        let key_file = state.path(KEY_FILE);
        let content =
            fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
        let key = image::digest(&content).replace("sha256:", "");
        let changed =
            !archive.exists() || fs::read_to_string(&key_file).ok().as_ref() != Some(&key);
        if changed {
            let images = [
                Image::new(PEERRELAY, &[PROGRAM]),
                Image::new(PAUSE, &[PROGRAM, "pause"]),
            ];
            fs::write(&archive, image::for_rig(program, &images)?.to_tar()?)?;
            fs::write(key_file, key)?;
        }
        Ok(Self { archive, changed })
    }

    /// The program that was built last.
    pub fn program(state: &State) -> Result<PathBuf> {
        let path = fs::read_to_string(state.path(PROGRAM_FILE));
        path.map(PathBuf::from)
            .context("nothing was built yet: run `cargo dev up`")
    }

    /// Checksum of the program that was packed last.
    pub fn digest(state: &State) -> Result<String> {
        let key = fs::read_to_string(state.path(KEY_FILE));
        key.context("nothing was built yet: run `cargo dev up`")
    }

    /// The archive's path.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// True if the archive differs from the one before.
    pub fn changed(&self) -> bool {
        self.changed
    }
}
