//! Files that a command line names, and standard input.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// File name that stands for standard input or standard output.
const STANDARD: &str = "-";

/// Returns whether a path stands for standard input or standard output.
pub(super) fn is_standard(path: &Path) -> bool {
    path == Path::new(STANDARD)
}

/// Returns the name of an input for messages.
pub(super) fn shown(path: &Path) -> String {
    match is_standard(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// Reads a file, or standard input.
///
/// # Errors
/// It cannot be read.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !is_standard(path) {
        return fs::read(path);
    }
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
