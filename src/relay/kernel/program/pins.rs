//! Files of pinned maps and attachments in the directory of one relay.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Beginning of the names of pinned attachments; the device's index follows.
const LINK: &str = "link-";

/// The file for the attachment to the device with this index.
pub(super) fn link(directory: &Path, index: u32) -> PathBuf {
    directory.join(format!("{LINK}{index}"))
}

/// Returns whether a pinned attachment has this name.
pub(super) fn is_link(name: &str) -> bool {
    name.starts_with(LINK)
}

/// Names of all files in a directory.
pub(super) fn names(directory: &Path) -> impl Iterator<Item = String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned())
}

/// Removes the attachments of an earlier process to devices that are not wanted any more.
pub(super) fn retain_links(directory: &Path, is_wanted: impl Fn(u32) -> bool) {
    for name in names(directory) {
        let index = name.strip_prefix(LINK).map(str::parse);
        if let Some(Ok(index)) = index
            && !is_wanted(index)
        {
            fs::remove_file(directory.join(name)).ok();
        }
    }
}

/// Removes the directory with all that is pinned in it; the kernel frees what nobody else holds.
///
/// # Errors
/// Something in it, or the directory, cannot be removed.
pub(in crate::relay::kernel) fn remove(directory: &Path) -> io::Result<()> {
    let removed = names(directory).map(|name| fs::remove_file(directory.join(name)));
    let removed = removed.fold(Ok(()), Result::and);
    removed.and(fs::remove_dir(directory))
}
