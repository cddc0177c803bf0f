//! Task that binds the UDP port and hands its sockets to the worker threads.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use relay_proto::Family;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use super::{
    SocketSets,
    port::{BoundSockets, Port, PortState, SocketChange},
    workers::WorkerHandle,
};
use crate::relay::watch_ext::SendIfChanged;

/// Report of a worker thread whose socket of one IP version broke.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokenSocket {
    pub(super) family: Family,
    /// Generation that the socket came with.
    pub(super) generation: u64,
}

/// Keeps the port bound: binds it, gives each worker its socket, and binds again when one breaks.
pub(super) struct PortBinder {
    port: Port,
    workers: Arc<[WorkerHandle]>,
    broken: mpsc::UnboundedSender<BrokenSocket>,
    broken_sockets: mpsc::UnboundedReceiver<BrokenSocket>,
    state: watch::Sender<PortState>,
    rebinds: Arc<AtomicU64>,
    /// `true` if the port has been bound before; then each further bind counts as a rebind.
    bound_before: bool,
}

impl PortBinder {
    /// Hands out `sockets` where there is one for each worker; all others are bound to `port` by
    /// [`PortBinder::run`].
    pub(super) fn new(port: u16, sockets: SocketSets, workers: Arc<[WorkerHandle]>) -> Self {
        let mut port = Port::new(port, workers.len());
        for (family, sockets) in Family::ALL.into_iter().zip(sockets) {
            if sockets.len() == workers.len() {
                hand_out(&workers, port.adopt(family, sockets));
            }
        }
        let (broken, broken_sockets) = mpsc::unbounded_channel();
        let state = port.number().map_or(PortState::Binding, PortState::Bound);
        Self {
            bound_before: port.number().is_some(),
            port,
            workers,
            broken,
            broken_sockets,
            state: watch::Sender::new(state),
            rebinds: Arc::default(),
        }
    }

    /// Sender of reports of broken sockets.
    pub(super) fn broken(&self) -> mpsc::UnboundedSender<BrokenSocket> {
        self.broken.clone()
    }

    /// State of the port, as it changes.
    pub(super) fn state(&self) -> watch::Receiver<PortState> {
        self.state.subscribe()
    }

    /// Number of sockets that were bound again after an error, as it grows.
    pub(super) fn rebinds(&self) -> Arc<AtomicU64> {
        self.rebinds.clone()
    }

    /// Keeps the port bound for as long as it is polled.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let due = self.port.due();
            let bind_time = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = bind_time => self.bind(),
                Some(BrokenSocket { family, generation }) = self.broken_sockets.recv() => {
                    self.close(family, generation);
                }
            }
        }
    }

    fn bind(&mut self) {
        let (state, bound) = self.port.bind();
        if self.bound_before {
            self.rebinds
                .fetch_add(bound.len() as u64, Ordering::Relaxed);
        }
        self.bound_before |= state.bound().is_some();
        for sockets in bound {
            hand_out(&self.workers, sockets);
        }
        self.state.send_if_changed(state);
    }

    /// Closes the sockets of one IP version in every worker, because the kernel steers datagrams by
    /// position in the whole set.
    fn close(&mut self, family: Family, generation: u64) {
        if self.port.lose(family, generation) {
            for worker in &*self.workers {
                worker.send(SocketChange::Close { family, generation });
            }
        }
    }
}

/// Gives each worker its socket.
fn hand_out(workers: &[WorkerHandle], bound: BoundSockets) {
    let BoundSockets {
        family,
        generation,
        sockets,
    } = bound;
    for (worker, socket) in workers.iter().zip(sockets) {
        worker.send(SocketChange::Use {
            family,
            generation,
            socket,
        });
    }
}
