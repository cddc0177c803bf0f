//! What outlives the process: sessions go on in the next relay on the same node.
//!
//! A relay that ends, planned or not, leaves its keys and sessions in a file; the next one that has
//! the same identity goes on with them, and clients notice a pause. A relay that is started beside
//! a running one takes over its sockets too, and clients notice nothing.
//!
//! The file holds secrets and client addresses: mode 0600 in a directory of mode 0700, in memory
//! wherever there is such a place (`/run`), and worthless after a reboot.

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
use super::{private, socket_path::SocketPathHandle};

const FILE: &str = "sessions";
/// The file is at most this old, for sessions to be restored with what they last heard.
const RENEW: Duration = Duration::from_secs(20);
/// Changes of sessions that come together are written together.
const PACE: Duration = Duration::from_millis(250);
/// Writing takes at most one part in this many of the time.
const SHARE: u32 = 20;

/// Sessions of a relay before this one.
#[derive(Debug)]
pub struct RestoredState {
    /// Keys and sessions.
    pub state: State,
    /// How long nobody has served them.
    pub away: Duration,
}

/// The file in which sessions wait for the next relay.
#[derive(Debug, Clone)]
pub struct SessionFile {
    path: PathBuf,
    key: SealKey,
}

impl SessionFile {
    /// The file in `dir`, which is made with mode 0700 if need be.
    ///
    /// # Errors
    /// The directory cannot be made.
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

    /// What the last relay left. What cannot be used is said in the log and left out: then every
    /// session starts anew.
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

    /// Replaces the file.
    ///
    /// # Errors
    /// The directory is full or not writable.
    pub fn write(&self, state: &State) -> io::Result<()> {
        let sealed = self.key.seal(state)?;
        let draft = self.path.with_extension("new");
        let mut file = private::create(&draft)?;
        file.write_all(&sealed)?;
        fs::rename(&draft, &self.path)
    }

    /// Writes what the relay has now.
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

    /// Keeps the file current: soon after sessions have changed, and often enough that it tells
    /// which sessions are alive.
    pub async fn keep(self, socket_path: SocketPathHandle) -> Result<Infallible, Infallible> {
        loop {
            let start = Instant::now();
            self.save(&socket_path).await;
            sleep((start.elapsed() * SHARE).max(PACE)).await;
            timeout(RENEW, socket_path.changed()).await.ok();
        }
    }
}
