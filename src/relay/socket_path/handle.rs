//! Handle of the socket path, through which all other tasks use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::join_all;
use relay_proto::{DropReason, NodeKey, Peer, SessionInfo, State, Timestamp, Vni};
use tokio::sync::{Notify, oneshot, watch};

use super::{
    Clock, Demux, Limits, PortState, Snapshot, SocketSets, command::HandleCommand,
    dispatcher::Dispatcher,
};
use crate::relay::kernel::KernelPath;

/// Handle of the socket path. The worker threads end with the last clone.
#[derive(Debug, Clone)]
pub struct SocketPathHandle {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) limits: Arc<Limits>,
    pub(super) kernel: Option<KernelPath>,
    pub(super) changes: Arc<Notify>,
    pub(super) clock: Clock,
    pub(super) port: watch::Receiver<PortState>,
    pub(super) rebinds: Arc<AtomicU64>,
    pub(super) demux: Demux,
}

impl SocketPathHandle {
    /// Handles a packet that came over DERP, and returns the answer. `sender` looks up who sent it, by the
    /// policy of that moment; it must be quick, because other requests wait for it.
    ///
    /// # Errors
    /// The reason why there is no answer; [`DropReason::NotAccepting`] also when the thread has
    /// ended.
    pub async fn handle_derp(
        &self,
        sender: impl FnOnce() -> Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        self.dispatcher.handle_derp(sender, packet).await
    }

    /// Replaces the addresses that allocations advertise.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.dispatcher.set_addresses(&addresses);
    }

    /// Sends a datagram of at most [`relay_proto::REPLY_LEN`] bytes from the relay's port, and from
    /// the local address `from` if that is given. One that cannot be sent is counted.
    pub fn send(&self, to: SocketAddr, from: Option<IpAddr>, datagram: Vec<u8>) {
        let command = HandleCommand::Send { to, from, datagram };
        // Each thread has a socket of the port; the source address is the same from all of them.
        self.dispatcher.workers()[0].send(command);
    }

    /// Receivers of datagrams that belong to no session.
    pub const fn demux(&self) -> &Demux {
        &self.demux
    }

    /// Nodes that have asked for sessions, or whose requests are on their way. A node that the policy has
    /// refused since, and that is not among them, has no session and gets none.
    pub fn holders(&self) -> BTreeSet<NodeKey> {
        // In this order: a request that is carried out meanwhile is among both.
        let pending = self.dispatcher.pending();
        self.limits.holders().into_iter().chain(pending).collect()
    }

    /// Leaves out nodes that are not among [`SocketPathHandle::holders`].
    pub fn retain_holders(&self, nodes: &mut BTreeSet<NodeKey>) {
        if !nodes.is_empty() {
            let pending = self.dispatcher.pending();
            nodes.retain(|node| pending.contains(node) || self.limits.is_holder(*node));
        }
    }

    /// Ends the sessions that these nodes have asked for. The policy must refuse them before: a request
    /// that it allows later opens a session.
    pub fn revoke(&self, nodes: BTreeSet<NodeKey>) {
        self.dispatcher.revoke(nodes);
    }

    /// Returns whether tags have a limit, so that [`SocketPathHandle::set_tags`] has an effect.
    pub fn limits_tags(&self) -> bool {
        self.limits.limits_tags()
    }

    /// Replaces the tags of all nodes, each by a number.
    pub fn set_tags(&self, tags: BTreeMap<NodeKey, Vec<u32>>) {
        self.limits.set_tags(tags);
    }

    /// Replaces the tags of these nodes, each by a number.
    pub fn change_tags(&self, tags: impl IntoIterator<Item = (NodeKey, Vec<u32>)>) {
        self.limits.change_tags(tags);
    }

    /// Sets whether the policy lets this relay give out sessions.
    pub fn set_accepting(&self, accepting: bool) {
        self.dispatcher.set_accepting(accepting);
    }

    /// Sets whether the relay is withdrawn. A withdrawn relay gives out no session.
    pub fn set_withdrawn(&self, withdrawn: bool) {
        self.dispatcher.set_withdrawn(withdrawn);
    }

    /// Gives out no further session, for good.
    pub fn drain(&self) {
        self.dispatcher.drain();
    }

    /// All sessions, grouped by thread.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let parts = self.ask_all(HandleCommand::Sessions).await;
        let mut sessions: Vec<_> = parts.into_iter().flatten().collect();
        if let Some(kernel) = &self.kernel {
            let now = self.now();
            for session in &mut sessions {
                session.add(kernel.activity(session.vni, now).unwrap_or_default());
            }
        }
        sessions
    }

    /// Sum of the counters of all threads, with those of the kernel path beside them.
    pub async fn snapshot(&self) -> Snapshot {
        let mut sum = self.dispatcher.snapshot();
        for part in self.ask_all(HandleCommand::Snapshot).await {
            sum.add(&part);
        }
        sum.sockets.rebinds = self.rebinds.load(Ordering::Relaxed);
        sum.kernel = self.kernel.as_ref().map(KernelPath::counters);
        sum
    }

    /// Enters into exported sessions what the kernel path has heard since. See
    /// [`KernelPath::complete`].
    pub fn complete(&self, state: &mut State) {
        if let Some(kernel) = &self.kernel {
            kernel.complete(state);
        }
    }

    /// Exports what a later relay needs to go on, after [`SocketPathHandle::complete`]. Returns
    /// `None` when a thread has ended.
    pub async fn export(&self) -> Option<State> {
        let parts = self.ask_all(HandleCommand::Export).await;
        self.is_complete(&parts).then_some(())?;
        parts.into_iter().reduce(|mut sum, part| {
            sum.append(part);
            sum
        })
    }

    /// Ends the threads, and returns their sessions and sockets for the relay that goes on. Returns
    /// `None` when a thread has ended already.
    pub async fn hand_over(&self) -> Option<(State, SocketSets)> {
        let parts = self.ask_all(HandleCommand::HandOver).await;
        self.is_complete(&parts).then_some(())?;
        let mut sets = SocketSets::default();
        let mut all: Option<State> = None;
        for (state, sockets) in parts {
            match &mut all {
                Some(all) => all.append(state),
                None => all = Some(state),
            }
            for (set, socket) in sets.iter_mut().zip(sockets) {
                set.extend(socket);
            }
        }
        // The kernel steers by position, so a set with a gap is of no use.
        let threads = self.dispatcher.workers().len();
        for set in sets.iter_mut().filter(|set| set.len() != threads) {
            set.clear();
        }
        all.map(|state| (state, sets))
    }

    /// Waits until a session was opened, moved or closed since the last call.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Name of the data path that forwards for a session: `kernel` or `socket`.
    pub fn path(&self, vni: Vni) -> &'static str {
        let kernel = self.kernel.as_ref();
        match kernel.and_then(|kernel| kernel.activity(vni, self.now())) {
            Some(_) => "kernel",
            None => "socket",
        }
    }

    /// The present time on the clock of [`SessionInfo::allocated`].
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// State of the UDP port, as it changes.
    pub fn port(&self) -> watch::Receiver<PortState> {
        self.port.clone()
    }

    /// Ends the threads. Sockets are closed and sessions are lost.
    pub fn stop(&self) {
        self.dispatcher.stop();
    }

    /// Asks every thread. Threads that have ended do not answer.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> HandleCommand) -> Vec<T> {
        let answers = self.dispatcher.workers().iter().map(|worker| {
            let (answer, result) = oneshot::channel();
            worker.send(command(answer));
            result
        });
        // All are asked before the first answer is waited for.
        let answers = join_all(answers.collect::<Vec<_>>()).await;
        answers.into_iter().flatten().collect()
    }

    /// Returns whether every thread has answered.
    fn is_complete<T>(&self, answers: &[T]) -> bool {
        answers.len() == self.dispatcher.workers().len()
    }
}
