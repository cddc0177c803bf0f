//! Files and sockets that only this user reaches.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use tokio::net::UnixListener;

/// Listens at `path`, in a private directory. The caller holds the identity's lock, so a socket
/// file that is there already belongs to nobody.
///
/// # Errors
/// The directory is not writable, or the path is too long for a socket (107 bytes).
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// An empty file to write to, in place of what is there.
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
