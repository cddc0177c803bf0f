//! Files and unix sockets that only the user of this process can open.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use tokio::net::UnixListener;

/// Listens at `path`, in a private directory. A socket file that is there already is replaced: the
/// caller holds the identity's lock, so no other relay uses it.
///
/// # Errors
/// The directory is not writable, or the path is too long for a socket (107 bytes).
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Until the mode is set, the private directory keeps other users out.
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Creates an empty file, or empties the one at `path`.
///
/// # Errors
/// The directory is not writable.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}
