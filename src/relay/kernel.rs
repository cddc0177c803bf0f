//! The kernel data path: a program where packets enter the host forwards data of open sessions.
//!
//! It is a consumer of the core's events. What it does not forward it hands on to the sockets, so
//! the relay works the same without it, only slower: where the kernel refuses the program, and
//! before and after it runs. A thread of its own keeps its maps; the data path's threads talk to it
//! through a [`KernelPath`] and never wait for it.

mod abi;
mod attachment;
mod egress;
mod entries;
mod entry;
mod frame;
mod manager;
mod program;
mod reattach;
mod route_cache;
mod self_test;
mod share;
mod sys;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::{fd::AsFd as _, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use aya::maps::MapData;
use relay_proto::{
    Activity, Config, DropReason, Event, Family, RateLimit, SessionInfo, State, Timestamp, Traffic,
    Vni,
};
use tokio::sync::watch;

pub use self::{
    abi::{DROPPED, PassReason},
    attachment::Attachment,
    share::KernelShare,
};
use self::{
    entries::Entries,
    manager::Manager,
    program::{CounterMaps, Program},
};
use super::socket::Waker;

/// Where systemd mounts the BPF file system, and what of it is ours.
const PINS: &str = "/sys/fs/bpf/peerrelay";

/// What the kernel path is made of.
#[derive(Debug, Clone)]
pub struct KernelOptions {
    /// Most sessions that are open at once.
    pub max_sessions: usize,
    /// Bandwidth of each session.
    pub session_limit: Option<RateLimit>,
    /// Bandwidth of all sessions together.
    pub relay_limit: Option<RateLimit>,
    /// Directory of a BPF file system in which the program outlives the process; `None` when it
    /// shall not.
    pub pins: Option<PathBuf>,
    /// What holds it at a device.
    pub attachment: Attachment,
}

impl KernelOptions {
    /// With the limits of `config`; nothing outlives the process.
    pub fn new(config: &Config) -> Self {
        Self {
            max_sessions: config.max_sessions,
            session_limit: config
                .max_bytes_per_second_per_session
                .map(RateLimit::bandwidth),
            relay_limit: config.max_bytes_per_second.map(RateLimit::bandwidth),
            pins: None,
            attachment: Attachment::of(0),
        }
    }

    /// The directory for a relay with this port in this network namespace: two relays never share
    /// one, and the next process finds it again.
    pub fn pins_of(port: u16) -> Option<PathBuf> {
        let namespace = std::fs::metadata("/proc/self/ns/net").ok()?.ino();
        (port != 0).then(|| format!("{PINS}/{namespace}-{port}").into())
    }
}

labels::label_enum! {
    /// Reason why the sockets forward, and not the kernel. [`UnavailableReason::as_str`] is what status
    /// and metrics show.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum UnavailableReason {
        /// It was asked for.
        Chosen,
        /// The program has not been attached yet.
        Starting,
        /// The binary was built without clang.
        NotBuilt,
        /// CAP_BPF or CAP_NET_ADMIN is missing, or a security module forbids it.
        NotPermitted,
        /// The kernel has no bpf(2).
        KernelTooOld,
        /// The kernel does not accept the program.
        Refused,
        /// The program forwards wrongly here.
        SelfTestFailed,
        /// Another process detaches the program whenever it is attached.
        Detached,
        /// No Ethernet device has an address.
        NoDevice,
        /// Something else; the message says what.
        Failed,
    }
}

/// Why there is no kernel path, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Unavailable {
    /// Stable name.
    pub reason: UnavailableReason,
    /// One sentence.
    pub message: String,
}

impl Unavailable {
    /// A reason with its message.
    pub fn new(reason: UnavailableReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    fn failed(error: impl fmt::Display) -> Self {
        Self::new(UnavailableReason::Failed, error.to_string())
    }
}

/// Which path forwards: `Ok` with the number of devices to which the program is attached for the
/// kernel's, otherwise why it is the sockets'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState(pub Result<usize, Unavailable>);

impl PathState {
    /// The kernel's.
    pub const fn is_kernel(&self) -> bool {
        self.0.is_ok()
    }
}

impl Default for PathState {
    fn default() -> Self {
        Self(Err(Unavailable::new(
            UnavailableReason::Starting,
            "the UDP port is not bound yet",
        )))
    }
}

/// Time that datagrams spent in the program, of one in 256.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Upper bound of each bucket, and how many fell into it but not into one before; the last has
    /// no bound.
    pub buckets: Vec<(Option<Duration>, u64)>,
    /// All of them together.
    pub sum: Duration,
}

/// What the program has done since it was loaded first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Forwarded data, indexed by [`Family`].
    pub forwarded: [Traffic; 2],
    /// Datagrams (or super-packets) handed to the sockets, in the order of [`PassReason::ALL`].
    pub passed: Vec<u64>,
    /// What it dropped itself, by reason: of unknown VNIs, and of handshakes, what is above the rate
    /// that is handed on.
    pub dropped: Vec<(DropReason, u64)>,
    /// Times that another process detached the program from a device, since this process started.
    pub detached: u64,
    /// Of a sample.
    pub latency: Latency,
}

/// A session that both clients have bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// Its number.
    pub vni: Vni,
    /// Leg A and leg B.
    pub legs: [SocketAddr; 2],
    /// Local address that each was bound through, where it is known.
    pub locals: [Option<IpAddr>; 2],
}

impl OpenSession {
    /// The session, if both clients have bound it.
    pub fn of(session: &SessionInfo) -> Option<Self> {
        let [a, b] = session.legs;
        Some(Self {
            vni: session.vni,
            legs: [a.address?, b.address?],
            locals: [a.local, b.local],
        })
    }
}

/// Talks to the kernel path; any number of clones, on any thread.
#[derive(Clone)]
pub struct KernelPath(Arc<Shared>);

struct Shared {
    requests: mpsc::Sender<Request>,
    waker: Waker,
    state: watch::Receiver<PathState>,
    entries: Entries,
    counters: CounterMaps,
    relay_tat: Option<&'static AtomicU64>,
    vnis: &'static [AtomicU64],
    detached: Arc<AtomicU64>,
}

/// What a [`KernelPath`] asks of the thread.
enum Request {
    Place(OpenSession),
    Remove(Vni),
    Retain(Vec<OpenSession>),
    Port(Option<u16>),
    Stop {
        leave: Option<Duration>,
        done: mpsc::Sender<()>,
    },
}

/// Loads the program and starts the thread. Nothing is forwarded before the port is set and the
/// self-test has passed; but what an earlier process left goes on until [`KernelPath::retain`].
///
/// # Errors
/// Why this host or this process cannot have it.
pub fn start(options: KernelOptions) -> Result<KernelPath, Unavailable> {
    let sessions = u32::try_from(options.max_sessions).unwrap_or(u32::MAX);
    let (program, maps, counters) = Program::load(options.pins, sessions, options.attachment)?;
    let share =
        |map: &MapData, count| sys::share(map.fd().as_fd(), count).map_err(Unavailable::failed);
    let relay_tat = match options.relay_limit {
        Some(_) => share(&maps.debt, 1)?.first(),
        None => None,
    };
    let known_words = maps.known_words()?;
    let vnis = share(&maps.known, known_words)?;
    let (requests, inbox) = mpsc::channel();
    let waker = Waker::new().map_err(Unavailable::failed)?;
    let (state_sender, state) = watch::channel(PathState::default());
    let entries = maps.entries.again()?;
    let detached = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&detached);
    let config = abi::Config {
        known_mask: known_words - 1,
        session_limit: options.session_limit,
        relay_limit: options.relay_limit,
        ..abi::Config::default()
    };
    let manager = Manager::new(
        program,
        maps,
        inbox,
        waker.clone(),
        state_sender,
        theirs,
        config,
    )
    .map_err(Unavailable::failed)?;
    let thread = thread::Builder::new().name("kernel path".into());
    thread
        .spawn(move || manager.run())
        .map_err(Unavailable::failed)?;
    Ok(KernelPath(Arc::new(Shared {
        requests,
        waker,
        state,
        entries,
        counters,
        relay_tat,
        vnis,
        detached,
    })))
}

/// Ends what an earlier relay has left in the kernel, for one whose sockets forward: nobody would
/// renew or count it. Where this process may not do that, it ends by itself when its time is over.
pub fn discard(options: &KernelOptions) {
    if let Some(pins) = options.pins.as_deref().filter(|pins| pins.exists()) {
        tracing::info!("what an earlier relay left in the kernel is removed; the sockets forward");
        program::remove_pins(pins);
    }
    if let Attachment::Filter(port) = options.attachment {
        attachment::remove_filters(port);
    }
}

impl KernelPath {
    /// Tells it what the core has decided.
    pub fn record(&self, event: &Event) {
        self.send(match *event {
            Event::Opened { vni, legs, locals } | Event::Moved { vni, legs, locals } => {
                Request::Place(OpenSession { vni, legs, locals })
            }
            Event::Closed { vni, .. } => Request::Remove(vni),
        });
    }

    /// Makes these the only sessions: what an earlier process left besides them ends.
    pub fn retain(&self, open: Vec<OpenSession>) {
        self.send(Request::Retain(open));
    }

    /// The relay's UDP port; `None` while there is none.
    pub fn set_port(&self, port: Option<u16>) {
        self.send(Request::Port(port));
    }

    /// What came from leg A and leg B, at `now`, to a tenth of a second;
    /// `None` when the session has no entry.
    pub fn activity(&self, vni: Vni, now: Timestamp) -> Option<[Activity; 2]> {
        let legs = self.heard(vni)?;
        Some(legs.map(|(traffic, silence)| Activity {
            traffic,
            last_seen: now.before(silence),
        }))
    }

    /// Enters into saved sessions what came by this path since: a system call for each, so not for a
    /// thread that others wait for.
    pub fn complete(&self, state: &mut State) {
        state.record_silence(|vni| Some(self.heard(vni)?.map(|(_, silence)| silence)));
    }

    /// What came from leg A and leg B, and how long ago the last.
    fn heard(&self, vni: Vni) -> Option<[(Traffic, Duration); 2]> {
        let session = self.0.entries.get(vni.number())?;
        let clock = sys::monotonic_ns();
        let heard = session.usage.from;
        Some(heard.map(|leg| (leg.traffic, leg.silence(clock))))
    }

    /// What the program has done.
    pub fn counters(&self) -> KernelCounters {
        let counter = |key: u32| -> u64 {
            let values = self.0.counters.counters.get(&key, 0);
            values.map_or(0, |values| values.iter().sum())
        };
        let forwarded = |family: Family| {
            let values = self.0.counters.forwarded.get(&(family as u32), 0);
            let mut traffic = Traffic::default();
            for [packets, bytes] in values.iter().flat_map(|values| values.iter()) {
                traffic.packets += packets;
                traffic.bytes += bytes;
            }
            traffic
        };
        let buckets = (0..abi::BUCKETS).map(|bucket| {
            let bound = abi::bucket_bound(bucket).map(Duration::from_nanos);
            (bound, counter(abi::LATENCY_BUCKETS + bucket as u32))
        });
        KernelCounters {
            forwarded: Family::ALL.map(forwarded),
            passed: (0..PassReason::ALL.len() as u32).map(counter).collect(),
            dropped: (abi::DROPPED_FIRST..)
                .zip(abi::DROPPED)
                .map(|(key, reason)| (reason, counter(key)))
                .collect(),
            detached: self.0.detached.load(Ordering::Relaxed),
            latency: Latency {
                buckets: buckets.collect(),
                sum: Duration::from_nanos(counter(abi::LATENCY_SUM)),
            },
        }
    }

    /// Which path forwards.
    pub fn state(&self) -> watch::Receiver<PathState> {
        self.0.state.clone()
    }

    /// Ends the thread and waits for it. What is pinned goes on forwarding for as long as `leave`
    /// says, for the next process; without, nothing stays in the kernel.
    pub fn stop(&self, leave: Option<Duration>) {
        let (done, ended) = mpsc::channel();
        self.send(Request::Stop { leave, done });
        // An error means that the thread has ended already.
        ended.recv().ok();
    }

    fn send(&self, request: Request) {
        self.0.requests.send(request).ok();
        self.0.waker.wake();
    }
}

impl fmt::Debug for KernelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KernelPath")
            .field(&*self.0.state.borrow())
            .finish()
    }
}

#[cfg(test)]
mod tests;
