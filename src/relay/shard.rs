//! The data path: one thread that owns the sockets and the protocol core.
//!
//! Everyone else talks to it through a [`ShardHandle`]; the thread never waits for anyone.

mod forward;
mod port;
mod worker;

use std::{net::SocketAddr, sync::mpsc, thread};

use relay_proto::{Config, Counters, DropReason, Keys, Peer, SessionCounts, SessionInfo};
use tokio::sync::{oneshot, watch};

pub use self::port::{PortProblem, PortState};
use self::worker::Worker;
use super::socket::Waker;

/// What a shard is made of.
#[derive(Debug)]
pub struct ShardOptions {
    /// UDP port, on IPv4 and IPv6; 0 lets the kernel choose.
    pub port: u16,
    /// Lifetimes and limits.
    pub config: Config,
    /// The relay's disco keys.
    pub keys: Keys,
    /// Secret randomness, never used before.
    pub seed: [u8; 32],
    /// LamportID of the first allocation.
    pub first_lamport: u64,
}

/// Counters of the data path at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Of the protocol core.
    pub counters: Counters,
    /// Sessions by state.
    pub sessions: SessionCounts,
    /// Of the sockets.
    pub sockets: SocketCounters,
}

/// What the sockets lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounters {
    /// Datagrams lost because a receive buffer was full.
    pub receive_overflow: u64,
    /// Datagrams that the kernel refused to send.
    pub send_failed: u64,
    /// Datagrams dropped because a send buffer stayed full.
    pub send_no_room: u64,
    /// Times a socket was bound again after an error.
    pub rebinds: u64,
}

/// What a [`ShardHandle`] asks of the thread.
enum Command {
    HandleDerp {
        from: Option<Peer>,
        packet: Vec<u8>,
        answer: oneshot::Sender<Result<Vec<u8>, DropReason>>,
    },
    SetAddresses(Vec<SocketAddr>),
    SetAccepting(bool),
    Drain,
    Sessions(oneshot::Sender<Vec<SessionInfo>>),
    Snapshot(oneshot::Sender<Snapshot>),
    Stop,
}

/// Talks to the data path.
#[derive(Debug, Clone)]
pub struct ShardHandle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    port: watch::Receiver<PortState>,
}

/// Starts the thread. The second value resolves when it ends, which it does only when told to, or
/// by a bug.
///
/// # Errors
/// The process can have no further thread or file descriptor.
pub fn spawn(options: ShardOptions) -> std::io::Result<(ShardHandle, oneshot::Receiver<()>)> {
    let (commands, inbox) = mpsc::channel();
    let (port_state, port) = watch::channel(PortState::Binding);
    let waker = Waker::new()?;
    let mut worker = Worker::new(options, inbox, waker.clone(), port_state);
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("shard".into()).spawn(move || {
        worker.run();
        drop(worker);
        end.send(()).ok();
    })?;
    Ok((
        ShardHandle {
            commands,
            waker,
            port,
        },
        ended,
    ))
}

impl ShardHandle {
    /// Handles a packet that came over DERP.
    ///
    /// # Errors
    /// Why it gets no answer; [`DropReason::NotAccepting`] also when the thread has ended.
    pub async fn handle_derp(
        &self,
        from: Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        let (answer, result) = oneshot::channel();
        self.tell(Command::HandleDerp {
            from,
            packet,
            answer,
        });
        result.await.unwrap_or(Err(DropReason::NotAccepting))
    }

    /// Replaces the addresses that allocations advertise.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.tell(Command::SetAddresses(addresses));
    }

    /// Whether the policy lets this relay give out sessions.
    pub fn set_accepting(&self, accepting: bool) {
        self.tell(Command::SetAccepting(accepting));
    }

    /// Gives out no further session, for good.
    pub fn drain(&self) {
        self.tell(Command::Drain);
    }

    /// All sessions.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let (answer, result) = oneshot::channel();
        self.tell(Command::Sessions(answer));
        result.await.unwrap_or_default()
    }

    /// Counters.
    pub async fn snapshot(&self) -> Snapshot {
        let (answer, result) = oneshot::channel();
        self.tell(Command::Snapshot(answer));
        result.await.unwrap_or_default()
    }

    /// Whether the UDP port is bound, and to which number.
    pub fn port(&self) -> watch::Receiver<PortState> {
        self.port.clone()
    }

    /// Ends the thread; sockets close and sessions are forgotten.
    pub fn stop(&self) {
        self.tell(Command::Stop);
    }

    fn tell(&self, command: Command) {
        // An error means that the thread has ended; who owns it notices.
        self.commands.send(command).ok();
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests;
