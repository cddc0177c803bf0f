//! Policy files on disk: read as a whole, and replaced as a whole.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, anyhow, ensure};

use crate::{
    cli::input::{self, is_standard},
    grants::policy_file::PolicyFileError,
};

/// Mode of the temporary file until it has the mode of the file that it replaces.
const PRIVATE: u32 = 0o600;
/// Mode of a file that replaces none. The user's mask restricts it.
const NEW: u32 = 0o666;

/// Reads a policy file, or standard input.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    input::read(path).with_context(|| match is_standard(path) {
        true => "failed to read the policy from standard input".to_owned(),
        false => format!("failed to read {}", path.display()),
    })
}

/// Returns the message for an error in a policy file, which begins with its name, line and column.
pub(super) fn invalid(shown: &str, error: &PolicyFileError) -> anyhow::Error {
    anyhow!("{shown}:{}:{}: {}", error.line, error.column, error.fault)
}

/// Replaces a file as a whole. At no time does the file contain a part of the text: a temporary
/// file in the same directory is written to disk and then renamed. A symbolic link stays, and the
/// file that it names is replaced. Mode and owner stay.
///
/// # Errors
/// The file cannot be replaced, or does not contain `before` any more. It is then unchanged.
pub(super) fn replace(path: &Path, text: &str, before: Option<&[u8]>) -> anyhow::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed(path, error)),
    };
    let old = match fs::metadata(&target) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(path, error)),
    };
    ensure!(
        old.as_ref().is_none_or(Metadata::is_file),
        "{} is not a regular file: use '-' to read standard input and to write standard output",
        path.display()
    );
    let mode = if old.is_some() { PRIVATE } else { NEW };
    let temporary = Temporary::create(&target, mode).map_err(|error| failed(path, error))?;
    let written = temporary.write(text, old.as_ref());
    written.map_err(|error| failed(path, error))?;
    if let Some(before) = before {
        let now = fs::read(&target).map_err(|error| failed(path, error))?;
        ensure!(
            now == before,
            "{} was changed by another program meanwhile and was not written: run the command \
             again",
            path.display()
        );
    }
    temporary
        .rename(&target)
        .map_err(|error| failed(path, error))
}

fn failed(path: &Path, error: io::Error) -> anyhow::Error {
    let message = format!(
        "failed to write {}, which is unchanged; use --output to write to another place",
        path.display()
    );
    anyhow::Error::new(error).context(message)
}

/// Temporary file, which is removed unless it is renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    fn create(target: &Path, mode: u32) -> io::Result<Self> {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", process::id()));
        let path = directory(target).join(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(mode);
        let file = options.open(&path)?;
        Ok(Self { path, file })
    }

    fn write(&self, text: &str, old: Option<&Metadata>) -> io::Result<()> {
        (&self.file).write_all(text.as_bytes())?;
        if let Some(old) = old {
            let new = self.file.metadata()?;
            if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
                chown(&self.path, Some(old.uid()), Some(old.gid()))?;
            }
            self.file.set_permissions(old.permissions())?;
        }
        self.file.sync_all()
    }

    fn rename(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        // The new name survives a crash only if the directory is on disk. The file is replaced
        // already, and some file systems cannot do this.
        if let Ok(directory) = File::open(directory(target)) {
            directory.sync_all().ok();
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        fs::remove_file(&self.path).ok();
    }
}

fn directory(target: &Path) -> &Path {
    let parent = target.parent();
    match parent.filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => parent,
        None => Path::new("."),
    }
}
