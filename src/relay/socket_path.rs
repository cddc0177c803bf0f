//! The socket path: worker threads that forward datagrams, each with its own socket of the UDP port
//! and its own protocol core for some of the sessions.
//!
//! All other tasks use it through a [`SocketPathHandle`]. The threads never wait for another task,
//! nor for each other: a session and all of its datagrams belong to one thread, which its VNI names.

mod backlog;
mod coalescer;
mod command;
mod demux;
mod dispatcher;
mod driver;
#[cfg(test)]
pub(crate) mod fixture;
mod forward;
mod handle;
mod handoff;
pub mod latency;
mod port;
mod port_binder;
mod snapshot;
mod worker;
mod workers;

use std::{
    io,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use relay_proto::{Config, Keys, Shard, SharedLimits, State, Timestamp};
use tokio::sync::{Notify, oneshot};

pub use self::{
    demux::{Demux, PROBE_HEADER, TransactionId, UnmatchedDatagram},
    driver::{Driver, WorkerPanicked},
    handle::SocketPathHandle,
    latency::Latency,
    port::{PortProblem, PortState},
    snapshot::{Snapshot, SocketCounters},
};
use self::{
    dispatcher::Dispatcher,
    port_binder::PortBinder,
    worker::{Worker, WorkerContext},
    workers::{Inbox, WorkerHandle, Workers},
};
use super::{
    kernel::{KernelPath, KernelShare, OpenSession},
    socket::UdpSocket,
};

/// Largest default number of threads; further cores are left to other programs.
const MAX_DEFAULT_THREADS: usize = 8;

/// Options of a socket path.
#[derive(Debug)]
pub struct SocketPathOptions {
    /// UDP port, on IPv4 and IPv6; 0 lets the kernel choose.
    pub port: u16,
    /// Number of threads, at least one; with `sockets`, their number decides.
    pub threads: usize,
    /// Lifetimes and limits.
    pub config: Config,
    /// Disco keys of the relay.
    pub keys: Keys,
    /// Secret randomness that was never used before.
    pub seed: [u8; 32],
    /// LamportID of the first allocation, if no state is restored.
    pub first_lamport: u64,
    /// Kernel path, which forwards open sessions before the sockets see their datagrams.
    pub kernel: Option<KernelPath>,
    /// Sessions of an earlier relay with the same `keys`.
    pub restored_state: Option<RestoredState>,
    /// Sockets of an earlier relay.
    pub sockets: SocketSets,
}

/// Sessions of an earlier relay.
#[derive(Debug)]
pub struct RestoredState {
    /// Keys and sessions.
    pub state: State,
    /// Time for which no relay has served them.
    pub away: Duration,
}

/// Sockets by IP version, one for each thread, in the order of the threads.
pub type SocketSets = [Vec<UdpSocket>; 2];

/// Core of one worker thread, which shares memory with the kernel path where there is one.
type Core = relay_proto::Core<Option<KernelShare>>;
/// Limits that all cores share, some of them with the kernel path.
type Limits = SharedLimits<Option<KernelShare>>;

/// Clock of the cores. It begins long before the process, so that sessions can be older than that.
#[derive(Debug, Clone, Copy)]
struct Clock(Instant);

impl Clock {
    const BEFORE_START: Duration = Duration::from_secs(400 * 24 * 3600);

    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Timestamp {
        Timestamp::from_start(Self::BEFORE_START + self.0.elapsed())
    }
}

/// Number of threads on this machine by default.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_DEFAULT_THREADS))
}

/// Starts the worker threads. The port is bound once the [`Driver`] runs, unless the options have
/// sockets.
///
/// # Errors
/// The process can have no further thread or file descriptor.
pub fn spawn(options: SocketPathOptions) -> io::Result<(SocketPathHandle, Driver)> {
    let sockets = options.sockets.iter().map(Vec::len).max();
    // The kernel steers to as many sockets as were handed over, so there must be as many threads. More
    // than there are shards would have no sessions.
    let threads = sockets.filter(|n| *n > 0).unwrap_or(options.threads);
    let threads = threads.clamp(1, Shard::COUNT as usize);
    let mut inboxes = Vec::with_capacity(threads);
    let mut handles = Vec::with_capacity(threads);
    for _ in 0..threads {
        let (handle, inbox) = WorkerHandle::new()?;
        handles.push(handle);
        inboxes.push(inbox);
    }
    let handles: Arc<[WorkerHandle]> = handles.into();

    let clock = Clock::start();
    let limits = Arc::new(shared_limits(&options, clock.now()));
    let mut cores = cores(threads, &options, &limits, clock.now());
    if let Some(restored_state) = options.restored_state {
        let kernel = options.kernel.as_ref();
        restore(&mut cores, restored_state, kernel, clock.now());
    }
    // Before the threads run: sessions that they open reach the kernel path after this list.
    if let Some(kernel) = &options.kernel {
        let sessions = cores.iter().flat_map(Core::sessions);
        let open = sessions.filter_map(|session| OpenSession::of(&session));
        kernel.retain(open.collect());
    }

    let port_binder = PortBinder::new(options.port, options.sockets, handles.clone());
    let dispatcher = Dispatcher::new(&options.config, &options.keys, handles.clone(), clock);
    let context = WorkerContext {
        clock,
        kernel: options.kernel.clone(),
        changes: Arc::new(Notify::new()),
        broken: port_binder.broken(),
    };
    let demux = Demux::default();
    let handle = SocketPathHandle {
        limits,
        kernel: options.kernel,
        changes: context.changes.clone(),
        clock,
        port: port_binder.state(),
        rebinds: port_binder.rebinds(),
        demux: demux.clone(),
        dispatcher: Arc::new(dispatcher),
    };
    let driver = Driver {
        port_binder,
        cleanup: handle.dispatcher.cleanup(),
        ended: spawn_threads(cores, inboxes, &handles, &demux, &context)?,
    };
    Ok((handle, driver))
}

/// Makes the limits that all cores share.
fn shared_limits(options: &SocketPathOptions, now: Timestamp) -> Limits {
    let restored = options.restored_state.as_ref();
    let next_lamport = restored.map_or(0, |restored| restored.state.next_lamport);
    let first_lamport = options.first_lamport.max(next_lamport);
    let share = options.kernel.as_ref().map(|kernel| kernel.share(now));
    Limits::with_path(&options.config, first_lamport, share)
}

/// One core for each thread.
fn cores(
    threads: usize,
    options: &SocketPathOptions,
    limits: &Arc<Limits>,
    now: Timestamp,
) -> Vec<Core> {
    let core = |own: usize| {
        // Each core needs a seed of its own, because a seed must not be used twice.
        let mut seed = options.seed;
        seed[0] ^= own as u8;
        let (config, keys) = (options.config.clone(), options.keys.clone());
        Core::new(config, keys, seed, limits.clone(), now)
    };
    (0..threads).map(core).collect()
}

/// Gives each core its share of the sessions of an earlier relay. A session that only the kernel
/// path has heard meanwhile is alive.
fn restore(
    cores: &mut [Core],
    RestoredState { mut state, away }: RestoredState,
    kernel: Option<&KernelPath>,
    now: Timestamp,
) {
    // Before the kernel path is asked: it answers for this moment, and the silences of the state are as
    // old as its export.
    state.age(away);
    if let Some(kernel) = kernel {
        kernel.complete(&mut state);
    }
    let threads = cores.len();
    let mut restored = 0;
    for (own, core) in cores.iter_mut().enumerate() {
        // A handshake can go on only where the same shards make a core as before.
        let previous = if state.cores() == threads {
            own
        } else {
            usize::MAX
        };
        let is_own = |shard| Workers::thread(shard, threads) == own;
        restored += core.import(&state, previous, is_own, now);
    }
    let sessions = state.len();
    tracing::info!(
        restored,
        sessions,
        ?away,
        "sessions of the last relay go on"
    );
}

/// Starts the threads. The result resolves when the first one ends.
fn spawn_threads(
    cores: Vec<Core>,
    inboxes: Vec<Inbox>,
    handles: &Arc<[WorkerHandle]>,
    demux: &Demux,
    context: &WorkerContext,
) -> io::Result<oneshot::Receiver<()>> {
    let (end, ended) = oneshot::channel();
    let end = Arc::new(Mutex::new(Some(end)));
    for (own, (core, inbox)) in cores.into_iter().zip(inboxes).enumerate() {
        let workers = Workers {
            own,
            handles: handles.clone(),
            demux: demux.clone(),
        };
        let mut worker = Worker::new(core, context.clone(), workers, inbox);
        let end = EndGuard(end.clone());
        let name = format!("socket-path-{own}");
        thread::Builder::new().name(name).spawn(move || {
            worker.run();
            // The sockets are closed before the end is reported.
            drop(worker);
            drop(end);
        })?;
    }
    Ok(ended)
}

/// Reports the end of a thread. After a panic it closes the channel without a value.
struct EndGuard(Arc<Mutex<Option<oneshot::Sender<()>>>>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let end = self.0.lock().ok().and_then(|mut end| end.take());
        if let Some(end) = end.filter(|_| !thread::panicking()) {
            end.send(()).ok();
        }
    }
}

#[cfg(test)]
mod tests;
