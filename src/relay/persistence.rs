//! Persistence of sessions: they go on in the next relay on the same node.
//!
//! A relay that ends, planned or not, leaves its keys and sessions in a file. The next relay with the
//! same identity restores them, and clients notice a pause. A relay that is started beside a running
//! one takes over its sockets too, and clients notice nothing.
//!
//! The file holds secrets and client addresses. It has mode 0600 in a directory of mode 0700, lies in
//! memory where the host has such a place (`/run`), and cannot be read after a reboot.

mod handover;
mod sealed;

use std::{
    convert::Infallible,
    fs, io,
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use relay_proto::State;
use tokio::time::{Instant, sleep, timeout};

pub use self::{
    handover::{HandoverListener, HandoverState, Successor, TakeoverRequest},
    sealed::{Refusal, SealKey},
};
use super::{
    private,
    socket_path::{RestoredState, SocketPathHandle},
};

const FILE: &str = "sessions";
/// Longest age of the file, so that restored sessions know when they were last heard.
const RENEW_INTERVAL: Duration = Duration::from_secs(20);
/// Shortest time between two writes, so that changes which come together share one.
const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// A write of length t is followed by a pause of at least this many t.
const PAUSE_FACTOR: u32 = 20;

/// File that keeps sessions for the next relay.
#[derive(Debug, Clone)]
pub struct SessionFile {
    path: PathBuf,
    key: SealKey,
}

impl SessionFile {
    /// Names the file in `dir`, and creates that directory with mode 0700 if it is missing.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(dir: &Path, key: SealKey) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        Ok(Self {
            path: dir.join(FILE),
            key,
        })
    }

    /// Reads what the last relay left. A file that cannot be used is reported in the log and left
    /// alone; then no session goes on.
    pub fn read(&self) -> Option<RestoredState> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "sessions of the last relay are not readable; starting without");
                return None;
            }
        };
        match self.key.open(&bytes) {
            Ok(restored_state) => Some(restored_state),
            Err(refusal) => {
                tracing::warn!(reason = %refusal, path = %self.path.display(), "sessions of the last relay are refused; starting without");
                None
            }
        }
    }

    /// Replaces the file, in one step.
    ///
    /// # Errors
    /// The directory is full or not writable.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let sealed = self.key.seal(state)?;
        // A crash leaves the old file or the new one. Nothing is synced to disk, because no relay can
        // read the file after a reboot.
        let draft = self.path.with_extension("new");
        let mut file = private::create(&draft)?;
        file.write_all(&sealed)?;
        fs::rename(&draft, &self.path)
    }

    /// Removes the file, because no relay follows that could read it. A failure is reported in the log.
    pub fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.path.display(), "sessions are not removed");
        }
    }

    /// Writes the present sessions of the relay. A failure is reported in the log.
    pub async fn save(&self, socket_path: &SocketPathHandle) {
        let Some(mut state) = socket_path.export().await else {
            return;
        };
        let (file, socket_path) = (self.clone(), socket_path.clone());
        let write = move || {
            socket_path.complete(&mut state);
            file.write(&state)
        };
        let written = tokio::task::spawn_blocking(write).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, path = %self.path.display(), "sessions are not saved: they would not survive a crash");
        }
    }

    /// Keeps the file current: writes it soon after sessions have changed, and often enough that it
    /// shows which sessions are alive.
    pub async fn keep(self, socket_path: SocketPathHandle) -> Result<Infallible, Infallible> {
        loop {
            let start = Instant::now();
            self.save(&socket_path).await;
            sleep((start.elapsed() * PAUSE_FACTOR).max(MIN_INTERVAL)).await;
            timeout(RENEW_INTERVAL, socket_path.changed()).await.ok();
        }
    }
}
