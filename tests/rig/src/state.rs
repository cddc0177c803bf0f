//! The directories with the rig's files.

use std::{
    env,
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::instance;

/// First part of the names of directories of rigs.
const RIG: &str = "peerrelay-rig";
/// The file that a rig has while it is up.
const COMPLETE: &str = "complete";

/// The directory with everything that one running rig wrote.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// Opens `${XDG_STATE_HOME:-~/.local/state}/peerrelay-rig`, private to its owner. The directory of a
    /// rig with a name has it after a hyphen.
    pub fn open() -> Result<Self> {
        Self::open_named(&instance::named(RIG))
    }

    /// Opens a directory of another name, for what runs beside a rig.
    pub fn open_named(name: &str) -> Result<Self> {
        let root = base("XDG_STATE_HOME", ".local/state")?.join(name);
        make_private(&root)?;
        Ok(Self { root })
    }

    /// A path below the state directory.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// A directory below the state directory, made if it is missing.
    pub fn dir(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path(relative);
        make_private(&path)?;
        Ok(path)
    }

    /// Waits until no other `up` or `down` is at work; the lock goes with the returned file.
    pub fn lock(&self) -> Result<File> {
        let path = self.path("lock");
        let file = File::create(&path)?;
        file.lock()
            .with_context(|| format!("failed to lock {}", path.display()))?;
        Ok(file)
    }

    /// Records that the rig is up.
    pub fn complete(&self) -> Result<()> {
        fs::write(self.path(COMPLETE), "").context("failed to record that the rig is up")
    }

    /// Says whether the rig is up.
    pub fn is_complete(&self) -> bool {
        self.path(COMPLETE).exists()
    }

    /// Says whether another rig is up on this machine.
    pub fn has_neighbours(&self) -> bool {
        let beside = self.root.parent().map(fs::read_dir);
        let beside = beside.and_then(Result::ok).into_iter().flatten().flatten();
        beside
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(RIG))
            .any(|entry| entry.path() != self.root && entry.path().join(COMPLETE).exists())
    }

    /// Removes everything but the logs and the lock.
    pub fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_name() == "logs" || entry.file_name() == "lock" {
                continue;
            }
            remove(&entry.path())?;
        }
        Ok(())
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// The directory of built tools: `${XDG_CACHE_HOME:-~/.cache}/peerrelay/bin`.
pub fn tool_cache() -> Result<PathBuf> {
    let dir = base("XDG_CACHE_HOME", ".cache")?.join("peerrelay/bin");
    fs::create_dir_all(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
    Ok(dir)
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .join("../..")
        .canonicalize()
        .unwrap_or_else(|_| package.into())
}

fn base(variable: &str, below_home: &str) -> Result<PathBuf> {
    if let Some(dir) = env::var_os(variable).filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let home =
        env::var_os("HOME").with_context(|| format!("neither {variable} nor HOME is set"))?;
    Ok(PathBuf::from(home).join(below_home))
}

fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("failed to make {}", path.display()))
}

fn remove(path: &Path) -> Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .with_context(|| format!("failed to remove {}", path.display()))
}
