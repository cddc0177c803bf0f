//! Tasks that the worker threads need, and the end of the threads.

use tokio::sync::oneshot;

use super::{dispatcher::AllocatorCleanup, port_binder::PortBinder};

/// Tasks of the socket path, to be run under the supervisor.
pub struct Driver {
    pub(super) port_binder: PortBinder,
    pub(super) cleanup: AllocatorCleanup,
    pub(super) ended: oneshot::Receiver<()>,
}

/// A worker thread has panicked.
#[derive(Debug, thiserror::Error)]
#[error("a thread of the socket path panicked")]
pub struct WorkerPanicked;

impl Driver {
    /// Binds the port and frees memory of the allocator, until a worker thread ends. The threads go
    /// on when this is dropped, with the sockets that they have.
    ///
    /// # Errors
    /// A worker thread has panicked.
    pub async fn run(self) -> Result<(), WorkerPanicked> {
        tokio::select! {
            ended = self.ended => ended.map_err(|_| WorkerPanicked),
            never = self.port_binder.run() => match never {},
            never = self.cleanup.run() => match never {},
        }
    }
}
