//! Messages to a worker thread, by who sends them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use relay_proto::{Allocation, DropReason, NodeKey, Request, SessionInfo, State};
use tokio::sync::oneshot;

use super::{
    Snapshot,
    handoff::HandoffBatch,
    port::{SocketChange, Sockets},
};

/// Message to a worker thread. All come through one queue, so their order is the order of sending.
pub(super) enum Command {
    Dispatcher(DispatcherCommand),
    Handle(HandleCommand),
    PortBinder(SocketChange),
    Worker(HandoffBatch),
}

/// Message of the [dispatcher](super::dispatcher), which decides who gets sessions.
pub(super) enum DispatcherCommand {
    Allocate {
        /// Dropped when the request has its session, or none.
        mark: Arc<()>,
        request: Request,
        answer: oneshot::Sender<Result<Allocation, DropReason>>,
    },
    SetAddresses(Vec<SocketAddr>),
    /// Ends the sessions of these nodes.
    Revoke(Arc<BTreeSet<NodeKey>>),
}

/// Message of a [`SocketPathHandle`](super::SocketPathHandle).
pub(super) enum HandleCommand {
    /// Sends a datagram that answers no other.
    Send {
        to: SocketAddr,
        from: Option<IpAddr>,
        datagram: Vec<u8>,
    },
    Sessions(oneshot::Sender<Vec<SessionInfo>>),
    Snapshot(oneshot::Sender<Snapshot>),
    Export(oneshot::Sender<State>),
    /// Gives sessions and sockets away, and ends the thread.
    HandOver(oneshot::Sender<(State, Sockets)>),
    /// Ends the thread.
    Stop,
}

impl From<DispatcherCommand> for Command {
    fn from(command: DispatcherCommand) -> Self {
        Self::Dispatcher(command)
    }
}

impl From<HandleCommand> for Command {
    fn from(command: HandleCommand) -> Self {
        Self::Handle(command)
    }
}

impl From<SocketChange> for Command {
    fn from(change: SocketChange) -> Self {
        Self::PortBinder(change)
    }
}

impl From<HandoffBatch> for Command {
    fn from(batch: HandoffBatch) -> Self {
        Self::Worker(batch)
    }
}
