//! The kernel data path: a program where packets enter the host forwards data of open sessions.
//!
//! It is a consumer of the core's events. What it does not forward it hands on to the sockets, so
//! the relay works the same without it, only slower: where the kernel refuses the program, and
//! before and after it runs. A thread of its own keeps its maps; the data path's threads talk to it
//! through a [`KernelPath`] and never wait for it.

mod abi;
mod attachment;
mod availability;
mod counters;
mod egress;
mod entries;
mod entry;
mod frame;
mod manager;
mod path;
mod program;
mod reattach;
mod route_cache;
mod self_test;
mod share;
mod sys;

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64, mpsc},
    thread,
};

use aya::maps::{MapData, MapError};
use relay_proto::{Config, RateLimit};
use tokio::sync::watch;

pub use self::{
    abi::{DROPPED, PassReason},
    attachment::Attachment,
    availability::{Attached, PathState, Unavailable, UnavailableReason},
    counters::{KernelCounters, Latency},
    path::{KernelPath, OpenSession},
    share::KernelShare,
};
use self::{
    entries::ReopenError,
    manager::Manager,
    path::Shared,
    program::{LoadError, Program},
};
use super::socket::Waker;

/// Mount point of the BPF file system that systemd mounts.
const BPF: &str = "/sys/fs/bpf";

/// Settings of the kernel path.
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
    /// Kind of attachment to devices.
    pub attachment: Attachment,
}

impl KernelOptions {
    /// Takes the limits from `config`; nothing outlives the process.
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
    /// one, and the next process finds it again. `None` for port 0, which no other process finds, and
    /// where nothing is mounted: a pod on the pod network has no BPF file system, and needs none, as its
    /// network ends with it.
    pub fn pins_of(port: u16) -> Option<PathBuf> {
        let namespace = fs::metadata("/proc/self/ns/net").ok()?.ino();
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        (port != 0 && is_mount_point(&mounts, BPF))
            .then(|| format!("{BPF}/peerrelay/{namespace}-{port}").into())
    }
}

/// Returns whether something is mounted at `path`, according to a list of mounts
/// (`proc_pid_mountinfo(5)`).
fn is_mount_point(mounts: &str, path: &str) -> bool {
    mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some(path))
}

/// Error from starting the kernel path.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Reopen(#[from] ReopenError),
    #[error("failed to read the size of the VNI filter: {0}")]
    VniFilter(#[from] MapError),
    #[error("failed to share memory with the program: {0}")]
    Share(#[source] io::Error),
    #[error("failed to make the waker of the kernel path: {0}")]
    Waker(#[source] io::Error),
    #[error("failed to read the devices of this host: {0}")]
    Devices(#[source] io::Error),
    #[error("failed to start the thread of the kernel path: {0}")]
    Thread(#[source] io::Error),
}

impl From<StartError> for Unavailable {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Load(error) => error.into(),
            error => Self::new(UnavailableReason::Failed, error.to_string()),
        }
    }
}

/// Loads the program and starts the thread. Nothing is forwarded before the port is set and the
/// self-test has passed; but what an earlier process left goes on until [`KernelPath::retain`].
///
/// # Errors
/// This host or this process cannot have it; the message names the fix.
pub fn start(options: KernelOptions) -> Result<KernelPath, Unavailable> {
    Ok(try_start(options)?)
}

fn try_start(options: KernelOptions) -> Result<KernelPath, StartError> {
    let sessions = u32::try_from(options.max_sessions).unwrap_or(u32::MAX);
    let (program, maps, counters) = Program::load(options.pins, sessions, options.attachment)?;
    let share =
        |map: &MapData, count| sys::share(map.fd().as_fd(), count).map_err(StartError::Share);
    // Without a limit, cores must not find memory to share, or each datagram would be counted there.
    let relay_tat = match options.relay_limit {
        Some(_) => share(&maps.relay_tat, 1)?.first(),
        None => None,
    };
    let known_words = maps.vni_filter_words()?;
    let vnis = share(&maps.vni_filter, known_words)?;
    let (requests, inbox) = mpsc::channel();
    let waker = Waker::new().map_err(StartError::Waker)?;
    let (state_sender, state) = watch::channel(PathState::default());
    let entries = maps.entries.reopen()?;
    let detached = Arc::new(AtomicU64::new(0));
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
        Arc::clone(&detached),
        config,
    )
    .map_err(StartError::Devices)?;
    let thread = thread::Builder::new().name("kernel path".into());
    thread
        .spawn(move || manager.run())
        .map_err(StartError::Thread)?;
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

/// Removes what an earlier relay has left in the kernel, for a relay whose sockets forward: nobody would
/// renew or count it. Where this process may not do that, the program stops forwarding when its time
/// is over.
pub fn discard(options: &KernelOptions) {
    if let Some(pins) = options.pins.as_deref().filter(|pins| pins.exists()) {
        tracing::info!("what an earlier relay left in the kernel is removed; the sockets forward");
        program::remove_pins(pins).ok();
    }
    if let Attachment::Filter(port) = options.attachment {
        attachment::remove_filters(port);
    }
}

#[cfg(test)]
mod tests;
