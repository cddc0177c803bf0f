//! Counters of the data path at one moment.

use relay_proto::{Counters, SessionCounts};

use super::Latency;
use crate::relay::kernel::KernelCounters;

/// Counters of the data path at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counters of the protocol core.
    pub counters: Counters,
    /// Number of sessions by state.
    pub sessions: SessionCounts,
    /// Counters of the sockets.
    pub sockets: SocketCounters,
    /// Counters of the kernel path, where there is one. Those of the core do not include them.
    pub kernel: Option<KernelCounters>,
    /// Time in the relay, of at most one datagram of a batch.
    pub latency: Latency,
}

/// Losses and errors of the sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Datagrams lost because a receive buffer was full.
    pub receive_overflow: u64,
    /// Datagrams that the kernel refused to send.
    pub send_failed: u64,
    /// Datagrams dropped because a send buffer stayed full.
    pub send_no_room: u64,
    /// Datagrams dropped because too many waited for the thread that they belong to.
    pub not_handed: u64,
    /// Times a socket was bound again after an error.
    pub rebinds: u64,
}

impl Snapshot {
    /// Number of datagrams forwarded so far, on both data paths.
    pub fn forwarded(&self) -> u64 {
        let sockets = self.counters.forwarded.iter().flatten();
        let kernel = self.kernel.iter().flat_map(|kernel| &kernel.forwarded);
        sockets.chain(kernel).map(|traffic| traffic.packets).sum()
    }

    /// Adds the counters of one thread.
    pub(super) fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.sessions.connecting += other.sessions.connecting;
        self.sessions.open += other.sessions.open;
        self.latency.add(&other.latency);
        let SocketCounters {
            receive_overflow,
            send_failed,
            send_no_room,
            not_handed,
            rebinds,
        } = other.sockets;
        self.sockets.receive_overflow += receive_overflow;
        self.sockets.send_failed += send_failed;
        self.sockets.send_no_room += send_no_room;
        self.sockets.not_handed += not_handed;
        self.sockets.rebinds += rebinds;
    }
}
