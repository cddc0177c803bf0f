//! The thread that keeps the program's maps and attachments current.

mod devices;
mod rounds;
mod sessions;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    os::fd::AsFd,
    sync::{Arc, atomic::AtomicU64, mpsc},
    time::{Duration, Instant},
};

use relay_proto::Vni;
use tokio::sync::watch;

use self::rounds::Rounds;
use super::{
    abi::{AddressKey, Config},
    availability::{PathState, Unavailable, UnavailableReason},
    path::{OpenSession, Request},
    program::{Maps, Program},
    reattach::ReattachBackoff,
    route_cache::RouteCache,
    self_test, sys,
};
use crate::relay::{
    netlink::{self, Changes, Device, Netlink},
    socket::{Interest, Waker, wait},
    watch_ext::SendIfChanged,
};

/// Time between two renewals of the program's time.
const RENEW_INTERVAL: Duration = Duration::from_secs(30);
/// Time for which the program forwards when nobody renews it: at least as long as a session lives when
/// its clients are silent, however long ago the last renewal was.
const WATCHDOG: Duration = Duration::from_secs(5 * 60).saturating_add(RENEW_INTERVAL);
/// Time between two checks of the attachments and of some routes.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Time that changes of the network are given to settle: they come in bursts.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// State of the thread.
pub(super) struct Manager {
    program: Program,
    maps: Maps,
    inbox: mpsc::Receiver<Request>,
    waker: Waker,
    state: watch::Sender<PathState>,
    netlink: Netlink,
    changes: Changes,
    /// Devices of this host, by index.
    devices: BTreeMap<u32, Device>,
    routes: RouteCache,
    /// Keys of the addresses that this host has.
    locals: BTreeMap<AddressKey, u32>,
    /// Keys of all addresses that have had one, so that an address that comes back has the same key.
    assigned_keys: BTreeMap<AddressKey, u32>,
    /// Visits to all entries, after changes of the network.
    rounds: Rounds,
    /// Open sessions that the next visit enters anew: those whose local address has no key yet, because the
    /// core may report a session before the kernel reports its new address; those with a leg that the program
    /// has not seen; and those of an earlier relay.
    waiting: BTreeMap<Vni, OpenSession>,
    /// The one of these that is looked at next; `None` for the first.
    next_waiting: Option<Vni>,
    config: Config,
    /// Result of the self-test, which runs once.
    tested: Option<Result<(), Unavailable>>,
    reattach: ReattachBackoff,
    /// Time of the next attempt to attach to a device that was lost.
    reattach_at: Option<Instant>,
    /// Count of attachments that another process has taken away.
    detached: Arc<AtomicU64>,
}

/// Times of the thread's next regular tasks.
struct Timers {
    renew_at: Instant,
    watch_at: Instant,
    /// Set while changes of the network settle.
    settled_at: Option<Instant>,
}

impl Timers {
    fn new(now: Instant) -> Self {
        Self {
            renew_at: now,
            watch_at: now + WATCH_INTERVAL,
            settled_at: None,
        }
    }

    fn next(&self) -> Instant {
        let regular = self.renew_at.min(self.watch_at);
        self.settled_at.map_or(regular, |at| at.min(regular))
    }
}

impl Manager {
    pub(super) fn new(
        program: Program,
        maps: Maps,
        inbox: mpsc::Receiver<Request>,
        waker: Waker,
        state: watch::Sender<PathState>,
        detached: Arc<AtomicU64>,
        config: Config,
    ) -> io::Result<Self> {
        let locals: BTreeMap<_, _> = maps.locals.iter().filter_map(Result::ok).collect();
        let assigned_keys = locals.clone();
        // The program of an earlier process goes on until this one has its port.
        let left = maps.config.get(&0, 0).map_err(io::Error::other)?;
        let left = Config::decode(&left);
        let config = Config {
            valid_until: left.valid_until,
            port: left.port,
            ..config
        };
        let rounds = Rounds::new(maps.entries.vnis());
        let mut manager = Self {
            program,
            maps,
            inbox,
            waker,
            state,
            netlink: Netlink::new()?,
            changes: Changes::of(netlink::EVERYTHING)?,
            devices: BTreeMap::new(),
            routes: RouteCache::default(),
            locals,
            assigned_keys,
            rounds,
            waiting: BTreeMap::new(),
            next_waiting: None,
            config,
            tested: None,
            reattach: ReattachBackoff::default(),
            reattach_at: None,
            detached,
        };
        if left.is_outdated(sys::monotonic_ns()) {
            manager.retain(Vec::new());
        }
        manager.refresh_addresses()?;
        Ok(manager)
    }

    /// Runs until a request stops it, or until no [`KernelPath`](super::KernelPath) is left.
    pub(super) fn run(mut self) {
        let mut timers = Timers::new(Instant::now());
        loop {
            if let ControlFlow::Break(done) = self.turn(&mut timers) {
                // Who asked waits until everything that this thread holds is closed.
                drop(self);
                done.map(|done| done.send(()).ok());
                return;
            }
        }
    }

    /// Does what is due, and waits. Breaks when the thread is to end, with the sender that confirms it
    /// where one asked.
    fn turn(&mut self, timers: &mut Timers) -> ControlFlow<Option<mpsc::Sender<()>>> {
        // Before requests are read, so that one which is sent meanwhile ends the next wait.
        self.waker.clear();
        self.handle_requests()?;
        self.run_due(timers);
        self.visit_part();
        if let Err(error) = self.wait(timers) {
            let message = format!("failed to wait: {error}");
            self.give_up(Unavailable::new(UnavailableReason::Failed, message));
            return ControlFlow::Break(None);
        }
        ControlFlow::Continue(())
    }

    /// Handles all requests that wait. Breaks as [`turn`](Self::turn) does.
    fn handle_requests(&mut self) -> ControlFlow<Option<mpsc::Sender<()>>> {
        loop {
            match self.inbox.try_recv() {
                Ok(Request::Place(open)) => self.place(&open),
                Ok(Request::Remove(vni)) => self.remove(vni),
                Ok(Request::Retain(open)) => self.retain(open),
                Ok(Request::Port(port)) => {
                    self.config.port = port.unwrap_or(0);
                    self.attach();
                }
                Ok(Request::Stop { leave, done }) => {
                    match leave {
                        Some(time) => {
                            self.renew(time);
                            self.program.leave();
                        }
                        None => self.program.remove(),
                    }
                    return ControlFlow::Break(Some(done));
                }
                Err(mpsc::TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(None),
            }
        }
    }

    fn run_due(&mut self, timers: &mut Timers) {
        let now = Instant::now();
        if timers.settled_at.is_some_and(|at| at <= now) {
            timers.settled_at = None;
            self.changes.clear();
            self.follow_network();
        }
        if timers.renew_at <= now {
            timers.renew_at = now + RENEW_INTERVAL;
            self.renew(WATCHDOG);
        }
        if timers.watch_at <= now {
            timers.watch_at = now + WATCH_INTERVAL;
            self.watch(now);
        }
    }

    /// Waits for a request, a change of the network or the next timer.
    fn wait(&self, timers: &mut Timers) -> io::Result<()> {
        let fds = [
            (self.waker.as_fd(), Interest::Read),
            (self.changes.as_fd(), Interest::Read),
        ];
        // While changes settle, more of them would end each wait at once.
        let fds = match timers.settled_at {
            Some(_) => &fds[..1],
            None => &fds[..],
        };
        let time = match self.rounds.is_running() {
            true => Duration::ZERO,
            false => timers.next().saturating_duration_since(Instant::now()),
        };
        let [_, changed, ..] = wait(fds, Some(time))?;
        if changed && timers.settled_at.is_none() {
            timers.settled_at = Some(Instant::now() + SETTLE_TIME);
        }
        Ok(())
    }

    /// Follows a change of the network.
    fn follow_network(&mut self) {
        if let Err(error) = self.refresh_addresses() {
            tracing::warn!(%error, "failed to read devices and addresses after a change");
            return;
        }
        self.routes.clear();
        self.attach();
        self.begin_round();
    }

    fn test(&mut self) -> Result<(), Unavailable> {
        let program = self.program.fd();
        let program = program
            .map_err(|error| Unavailable::new(UnavailableReason::Failed, error.to_string()))?;
        Ok(self_test::run(&program, &mut self.maps, self.config.port)?)
    }

    /// Writes the configuration; from now on the program forwards for this much time.
    fn renew(&mut self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.config.valid_until = sys::monotonic_ns().saturating_add(time);
        if let Err(error) = self.maps.config.set(0, self.config.encode(), 0) {
            tracing::error!(%error, "failed to renew the program's time");
        }
    }

    /// Leaves all forwarding to the sockets.
    fn give_up(&mut self, error: Unavailable) {
        self.config.port = 0;
        self.renew(WATCHDOG);
        self.program.remove();
        self.publish(PathState(Err(error)));
    }

    fn publish(&self, state: PathState) {
        self.state.send_if_changed(state);
    }
}
