//! The files of an image.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// The path of the program in the image.
pub const PROGRAM: &str = "/usr/bin/peerrelay";

/// An uncompressed layer with the program and its directories, which depends on nothing but the
/// program's bytes and the time.
pub(super) fn of(program: &Path, epoch: u64) -> Result<Vec<u8>> {
    let content =
        fs::read(program).with_context(|| format!("failed to read {}", program.display()))?;
    let mut layer = tar::Builder::new(Vec::new());
    for directory in ["usr/", "usr/bin/"] {
        let mut header = entry(epoch, 0o755, 0);
        header.set_entry_type(tar::EntryType::Directory);
        layer.append_data(&mut header, directory, &[][..])?;
    }
    let mut header = entry(epoch, 0o755, content.len() as u64);
    layer.append_data(&mut header, &PROGRAM[1..], &content[..])?;
    Ok(layer.into_inner()?)
}

/// The header of an entry that belongs to root.
pub fn entry(epoch: u64, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(epoch);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}
