//! The data path: threads that each own a socket and a protocol core for some of the sessions.
//!
//! Everyone else talks to them through a [`SocketPathHandle`]; they never wait for anyone, nor for each
//! other. A session and all of its datagrams belong to one thread, which its VNI names.

mod backlog;
mod coalescer;
mod demux;
mod dispatcher;
#[cfg(test)]
pub(crate) mod fixture;
mod forward;
pub mod latency;
mod port;
mod worker;
mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use futures::future::join_all;
use relay_proto::{
    Allocation, Config, Counters, DropReason, Family, Keys, NodeKey, Peer, Request, SessionCounts,
    SessionInfo, SharedLimits, State, Timestamp, Vni,
};
use tokio::sync::{Notify, oneshot, watch};

pub use self::{
    demux::{Demux, PROBE_HEADER, TransactionId, UnmatchedDatagram},
    latency::Latency,
    port::{PortProblem, PortState},
};
use self::{
    dispatcher::Dispatcher,
    forward::Sockets,
    port::Port,
    worker::{PortBinder, Worker, distribute, moment},
    workers::{HandoffBatch, WorkerHandle, Workers},
};
use super::{
    kernel::{KernelCounters, KernelPath, KernelShare, OpenSession},
    persistence::RestoredState,
    socket::{UdpSocket, Waker},
};

/// A thread's core, which shares memory with the kernel path where there is one.
type Core = relay_proto::Core<Option<KernelShare>>;

/// Most threads that the data path takes by itself; more cores are left to others.
const MOST_THREADS: usize = 8;

/// What the socket path is made of.
#[derive(Debug)]
pub struct SocketPathOptions {
    /// UDP port, on IPv4 and IPv6; 0 lets the kernel choose.
    pub port: u16,
    /// Threads, at least one.
    pub threads: usize,
    /// Lifetimes and limits.
    pub config: Config,
    /// The relay's disco keys.
    pub keys: Keys,
    /// Secret randomness, never used before.
    pub seed: [u8; 32],
    /// LamportID of the first allocation, if nothing is inherited.
    pub first_lamport: u64,
    /// Forwards open sessions before the sockets see them, where there is one.
    pub kernel: Option<KernelPath>,
    /// Sessions of a relay before this one, with `keys`.
    pub restored_state: Option<RestoredState>,
    /// Its sockets; then there are as many threads.
    pub sockets: SocketSets,
}

/// By IP version, one socket for each thread, in their order.
pub type SocketSets = [Vec<UdpSocket>; 2];

/// Counters of the data path at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Of the protocol core.
    pub counters: Counters,
    /// Sessions by state.
    pub sessions: SessionCounts,
    /// Of the sockets.
    pub sockets: SocketCounters,
    /// Of the kernel path, where there is one; not among those of the core.
    pub kernel: Option<KernelCounters>,
    /// Time in the relay, of at most one datagram of a batch.
    pub latency: Latency,
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
    /// Datagrams dropped because the thread they belong to had too much waiting.
    pub not_handed: u64,
    /// Times a socket was bound again after an error.
    pub rebinds: u64,
}

impl Snapshot {
    /// Datagrams forwarded so far, on both data paths.
    pub fn forwarded(&self) -> u64 {
        let sockets = self.counters.forwarded.iter().flatten();
        let kernel = self.kernel.iter().flat_map(|kernel| &kernel.forwarded);
        sockets.chain(kernel).map(|traffic| traffic.packets).sum()
    }

    fn add(&mut self, other: &Self) {
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

/// What is asked of a thread, by a [`SocketPathHandle`] or by another thread.
enum Command {
    Allocate {
        request: Request,
        answer: oneshot::Sender<Result<Allocation, DropReason>>,
    },
    SetAddresses(Vec<SocketAddr>),
    /// Ends the sessions of all other nodes.
    Revoke(Arc<BTreeSet<NodeKey>>),
    /// A datagram that is no answer to another.
    Send {
        to: SocketAddr,
        from: Option<IpAddr>,
        datagram: Vec<u8>,
    },
    Sessions(oneshot::Sender<Vec<SessionInfo>>),
    Snapshot(oneshot::Sender<Snapshot>),
    Export(oneshot::Sender<State>),
    /// Gives everything away and ends.
    HandOver(oneshot::Sender<(State, Sockets)>),
    Stop,
    /// Datagrams of the thread's sessions that came to another.
    Handoff(HandoffBatch),
    /// A socket of the port; the one before is gone.
    Use {
        family: Family,
        generation: u64,
        socket: UdpSocket,
    },
    /// A sibling of this socket broke.
    Close {
        family: Family,
        generation: u64,
    },
    /// To the first thread: the socket that it gave broke.
    Broken {
        family: Family,
        generation: u64,
    },
    /// To the first thread: the allocator has something to forget, first then.
    Forget(Timestamp),
}

/// Talks to the data path; it ends with the last of these.
#[derive(Debug, Clone)]
pub struct SocketPathHandle {
    dispatcher: Arc<Dispatcher>,
    limits: Arc<SharedLimits<Option<KernelShare>>>,
    kernel: Option<KernelPath>,
    changes: Arc<Notify>,
    start: Instant,
    port: watch::Receiver<PortState>,
    demux: Demux,
}

/// Threads for a data path on this machine, if nobody says otherwise.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_THREADS))
}

/// Starts the threads. The second value resolves when one ends, which they do only when forget_scheduled to,
/// or by a bug.
///
/// # Errors
/// The process can have no further thread or file descriptor.
pub fn spawn(
    options: SocketPathOptions,
) -> std::io::Result<(SocketPathHandle, oneshot::Receiver<()>)> {
    let SocketPathOptions {
        port,
        threads,
        config,
        keys,
        seed,
        mut first_lamport,
        kernel,
        restored_state,
        sockets,
    } = options;
    let given = sockets.iter().map(Vec::len).max().filter(|n| *n > 0);
    let threads = given.unwrap_or(threads);
    let threads = threads.clamp(1, relay_proto::Shard::COUNT as usize);
    let mut port = Port::new(port, threads);
    let bound: Vec<_> = (Family::ALL.into_iter().zip(sockets))
        .filter(|(_, sockets)| sockets.len() == threads)
        .map(|(family, sockets)| port.adopt(family, sockets))
        .collect();
    let port_state = port.port().map_or(PortState::Binding, PortState::Bound);
    let (port_state, port_changes) = watch::channel(port_state);
    let mut inboxes = Vec::with_capacity(threads);
    let mut handles = Vec::with_capacity(threads);
    for _ in 0..threads {
        let (commands, inbox) = mpsc::channel();
        let waker = Waker::new()?;
        handles.push(WorkerHandle::new(commands, waker.clone()));
        inboxes.push((inbox, waker));
    }
    let handles: Arc<[WorkerHandle]> = handles.into();
    for bound in bound {
        distribute(&handles, bound);
    }
    let start = Instant::now();
    let dispatcher = Arc::new(Dispatcher::new(&config, &keys, handles.clone(), start));
    let mut port_binder = Some(PortBinder {
        bound_before: port.port().is_some(),
        port,
        state: port_state,
        allocator: dispatcher.allocator(),
        forget: None,
    });
    if let Some(RestoredState { state, .. }) = &restored_state {
        first_lamport = first_lamport.max(state.next_lamport);
    }
    let share = kernel.as_ref().map(|kernel| kernel.share(moment(start)));
    let limits = Arc::new(SharedLimits::with_path(&config, first_lamport, share));
    let demux = Demux::default();
    let changes = Arc::new(Notify::new());
    let core = |own: usize| {
        // Another seed for each, and none of them used twice.
        let mut seed = seed;
        seed[0] ^= own as u8;
        let (config, keys, limits) = (config.clone(), keys.clone(), limits.clone());
        Core::new(config, keys, seed, limits, moment(start))
    };
    let mut cores: Vec<_> = (0..threads).map(core).collect();
    if let Some(restored_state) = restored_state {
        restore(&mut cores, restored_state, kernel.as_ref(), moment(start));
    }
    if let Some(kernel) = &kernel {
        let open = cores.iter().flat_map(Core::sessions);
        kernel.retain(
            open.filter_map(|session| OpenSession::of(&session))
                .collect(),
        );
    }
    let (end, ended) = oneshot::channel();
    let end = Arc::new(Mutex::new(Some(end)));
    for (own, (relay, inbox)) in cores.into_iter().zip(inboxes).enumerate() {
        let workers = Workers {
            own,
            handles: handles.clone(),
            demux: demux.clone(),
        };
        let mut worker = Worker::new(
            relay,
            start,
            workers,
            port_binder.take(),
            kernel.clone(),
            inbox,
            changes.clone(),
        );
        let end = End(end.clone());
        let name = format!("socket-path-{own}");
        thread::Builder::new().name(name).spawn(move || {
            worker.run();
            drop(worker);
            drop(end);
        })?;
    }
    let handle = SocketPathHandle {
        dispatcher,
        limits,
        kernel,
        changes,
        start,
        port: port_changes,
        demux,
    };
    Ok((handle, ended))
}

/// Gives each core its share of the sessions that an earlier relay had. What the kernel path has
/// served meanwhile is not over.
fn restore(
    cores: &mut [Core],
    RestoredState { mut state, away }: RestoredState,
    kernel: Option<&KernelPath>,
    now: Timestamp,
) {
    state.age(away);
    if let Some(kernel) = kernel {
        kernel.complete(&mut state);
    }
    let threads = cores.len();
    let mut restored = 0;
    for (own, relay) in cores.iter_mut().enumerate() {
        // A handshake goes on where the same shards make a core as before.
        let core = if state.cores() == threads {
            own
        } else {
            usize::MAX
        };
        let mine = |shard| Workers::thread(shard, threads) == own;
        restored += relay.import(&state, core, mine, now);
    }
    let sessions = state.len();
    tracing::info!(
        restored,
        sessions,
        ?away,
        "sessions of the last relay go on"
    );
}

/// Tells that a thread has ended; by a panic, it tells nothing and the channel closes.
struct End(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl Drop for End {
    fn drop(&mut self) {
        let end = self.0.lock().ok().and_then(|mut end| end.take());
        if let Some(end) = end.filter(|_| !thread::panicking()) {
            end.send(()).ok();
        }
    }
}

impl SocketPathHandle {
    /// Handles a packet that came over DERP.
    ///
    /// # Errors
    /// Why it gets no answer; [`DropReason::NotAccepting`] also when the thread has ended.
    pub async fn handle_derp(
        &self,
        from: Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        self.dispatcher.handle_derp(from, packet).await
    }

    /// Replaces the addresses that allocations advertise.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.dispatcher.set_addresses(&addresses);
    }

    /// Sends a datagram of at most [`relay_proto::REPLY_LEN`] bytes from the relay's port, and from
    /// the local address `from` where that matters; one that cannot be sent is counted.
    pub fn send(&self, to: SocketAddr, from: Option<IpAddr>, datagram: Vec<u8>) {
        self.dispatcher.workers()[0].send(Command::Send { to, from, datagram });
    }

    /// Datagrams that belong to no session.
    pub const fn demux(&self) -> &Demux {
        &self.demux
    }

    /// Ends the sessions that other nodes than `allowed` have asked for, and refuses what such nodes
    /// ask for from now on.
    pub fn revoke(&self, allowed: BTreeSet<NodeKey>) {
        self.dispatcher.revoke(allowed);
    }

    /// Whether tags have a limit, and [`SocketPathHandle::set_tags`] a use.
    pub fn limits_tags(&self) -> bool {
        self.limits.limits_tags()
    }

    /// Replaces the tags of all nodes, each by a number.
    pub fn set_tags(&self, tags: BTreeMap<NodeKey, Vec<u32>>) {
        self.limits.set_tags(tags);
    }

    /// Whether the policy lets this relay give out sessions.
    pub fn set_accepting(&self, accepting: bool) {
        self.dispatcher.set_accepting(accepting);
    }

    /// Whether the relay is withdrawn: it gives out no session until it is not any more.
    pub fn set_withdrawn(&self, withdrawn: bool) {
        self.dispatcher.set_withdrawn(withdrawn);
    }

    /// Gives out no further session, for good.
    pub fn drain(&self) {
        self.dispatcher.drain();
    }

    /// All sessions, those of one thread after those of another.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        let parts = self.ask(Command::Sessions).await;
        let mut sessions: Vec<_> = parts.into_iter().flatten().collect();
        if let Some(kernel) = &self.kernel {
            let now = self.now();
            for session in &mut sessions {
                session.add(kernel.activity(session.vni, now).unwrap_or_default());
            }
        }
        sessions
    }

    /// Counters.
    pub async fn snapshot(&self) -> Snapshot {
        let mut sum = self.dispatcher.snapshot();
        for part in self.ask(Command::Snapshot).await {
            sum.add(&part);
        }
        sum.kernel = self.kernel.as_ref().map(KernelPath::counters);
        sum
    }

    /// Enters into what was exported what the kernel path has heard since: see
    /// [`KernelPath::complete`].
    pub fn complete(&self, state: &mut State) {
        if let Some(kernel) = &self.kernel {
            kernel.complete(state);
        }
    }

    /// What a later relay needs to go on, once [`SocketPathHandle::complete`]; `None` when a thread has
    /// ended.
    pub async fn export(&self) -> Option<State> {
        let parts = self.ask(Command::Export).await;
        (parts.len() == self.dispatcher.workers().len()).then_some(())?;
        parts.into_iter().reduce(|mut sum, part| {
            sum.append(part);
            sum
        })
    }

    /// Ends the threads and gives their sessions and sockets to whoever goes on; `None` when a
    /// thread has ended already.
    pub async fn hand_over(&self) -> Option<(State, SocketSets)> {
        let parts = self.ask(Command::HandOver).await;
        (parts.len() == self.dispatcher.workers().len()).then_some(())?;
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
        // The kernel steers by position: a set with a gap is of no use.
        let threads = self.dispatcher.workers().len();
        for set in sets.iter_mut().filter(|set| set.len() != threads) {
            set.clear();
        }
        all.map(|state| (state, sets))
    }

    /// Until a session was opened, moved or closed since the last time.
    pub async fn changed(&self) {
        self.changes.notified().await;
    }

    /// Label of the data path that forwards for a session.
    pub fn path(&self, vni: Vni) -> &'static str {
        let kernel = self.kernel.as_ref();
        match kernel.and_then(|kernel| kernel.activity(vni, self.now())) {
            Some(_) => "kernel",
            None => "socket",
        }
    }

    /// Now, as [`SessionInfo::allocated`] counts.
    pub fn now(&self) -> Timestamp {
        moment(self.start)
    }

    /// Whether the UDP port is bound, and to which number.
    pub fn port(&self) -> watch::Receiver<PortState> {
        self.port.clone()
    }

    /// Ends the threads; sockets close and sessions are forgotten.
    pub fn stop(&self) {
        self.dispatcher.stop();
    }

    /// Asks every thread; those that have ended do not answer.
    async fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        let answers = self.dispatcher.workers().iter().map(|handle| {
            let (answer, result) = oneshot::channel();
            handle.send(command(answer));
            result
        });
        let answers = join_all(answers.collect::<Vec<_>>()).await;
        answers.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
