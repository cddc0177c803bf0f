//! A thread's loop.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use relay_proto::{Event, Family, Timestamp, Vni};
use tokio::sync::{Notify, watch};

use super::{
    Command, Core, Snapshot, SocketCounters,
    backlog::Backlog,
    coalescer::{Coalescer, Intake},
    dispatcher::SharedAllocator,
    forward::{BatchContext, Forwarder, Outcome, Sockets},
    latency::Latency,
    port::{Bound, Port, PortState},
    workers::{WorkerHandle, Workers},
};
use crate::{
    memory,
    relay::{
        kernel::KernelPath,
        socket::{Interest, ReceiveBatch, SLOTS, Waker, wait},
    },
};

/// Batches taken from one socket before anything else gets its turn.
const BUDGET: usize = 16;
/// Commands taken before the sockets get their turn.
const COMMANDS: usize = 64;
/// Sessions judged before the sockets get their turn: with a look into the kernel each, less than a
/// millisecond.
const DUE: usize = 256;
/// Without datagrams for this long, memory of the receive buffers is given back.
const QUIET: Duration = Duration::from_secs(1);
/// No datagram waits this long.
const ODD: Duration = Duration::from_secs(10);

/// What has something to read.
struct Ready {
    waker: bool,
    sockets: [bool; 2],
}

/// The first thread keeps the port for all.
pub(super) struct PortBinder {
    pub(super) port: Port,
    pub(super) state: watch::Sender<PortState>,
    pub(super) bound_before: bool,
    /// Which nobody else tidies up, and when to.
    pub(super) allocator: SharedAllocator,
    pub(super) forget: Option<Timestamp>,
}

/// State of a thread.
pub(super) struct Worker {
    core: Core,
    start: Instant,
    workers: Workers,
    port_binder: Option<PortBinder>,
    sockets: Sockets,
    generations: [u64; 2],
    inbox: mpsc::Receiver<Command>,
    waker: Waker,
    changes: Arc<Notify>,
    batch: ReceiveBatch,
    /// When the last datagrams came whose memory was not given back.
    heard: Option<Timestamp>,
    forwarder: Forwarder,
    overflow: [u32; 2],
    counters: SocketCounters,
    kernel: Option<KernelPath>,
    latency: Latency,
    intake: Intake,
    coalescer: Coalescer,
    backlogs: [Backlog; 2],
}

impl Worker {
    /// `start` is the moment that the core's time counts from; `changes` is forget_scheduled of events.
    pub(super) fn new(
        core: Core,
        start: Instant,
        workers: Workers,
        port_binder: Option<PortBinder>,
        kernel: Option<KernelPath>,
        (inbox, waker): (mpsc::Receiver<Command>, Waker),
        changes: Arc<Notify>,
    ) -> Self {
        Self {
            core,
            start,
            forwarder: Forwarder::new(workers.clone()),
            workers,
            port_binder,
            sockets: [None, None],
            generations: [0; 2],
            inbox,
            waker,
            changes,
            batch: ReceiveBatch::default(),
            heard: None,
            overflow: [0; 2],
            counters: SocketCounters::default(),
            kernel,
            latency: Latency::default(),
            intake: Intake::default(),
            coalescer: Coalescer::default(),
            backlogs: Default::default(),
        }
    }

    /// Runs until it is forget_scheduled to stop. Each turn: commands, timers, the sockets that have something,
    /// and a wait, which is none while more is to be done.
    pub(super) fn run(&mut self) {
        let mut ready = Ready {
            waker: true,
            sockets: [true; 2],
        };
        loop {
            if ready.waker {
                self.waker.clear();
            }
            let Some(mut busy) = self.run_commands() else {
                return;
            };
            self.run_timers();
            for family in Family::ALL {
                if ready.sockets[family as usize] {
                    busy |= self.serve(family);
                }
            }
            self.handle_events();
            ready = match self.next(ready, busy) {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "failed to wait for sockets");
                    return;
                }
            };
        }
    }

    /// Whether more may wait; `None` to stop.
    fn run_commands(&mut self) -> Option<bool> {
        for _ in 0..COMMANDS {
            match self.inbox.try_recv() {
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return None,
                Ok(Command::HandOver(answer)) => {
                    let state = self.core.export(self.now());
                    answer.send((state, std::mem::take(&mut self.sockets))).ok();
                    return None;
                }
                Ok(command) => self.run_command(command),
                Err(mpsc::TryRecvError::Empty) => return Some(false),
            }
        }
        Some(true)
    }

    /// Who asked may have gone; then the answer goes nowhere.
    fn run_command(&mut self, command: Command) {
        match command {
            Command::Allocate { request, answer } => {
                answer.send(self.core.allocate(&request)).ok();
            }
            Command::SetAddresses(addresses) => self.core.set_addresses(&addresses),
            Command::Revoke(allowed) => self.core.revoke(&allowed, self.now()),
            Command::Send { to, from, datagram } => {
                let outcome = self.forwarder.send(&self.sockets, to, from, &datagram);
                self.count(outcome);
            }
            Command::Handoff(batch) => {
                self.workers.handles[self.workers.own].taken(&batch);
                let context = BatchContext {
                    now: self.now(),
                    core: &mut self.core,
                    sockets: &self.sockets,
                    data: &batch.bytes,
                    // Whoever handed it over has seen to that.
                    backlog: &mut Backlog::default(),
                };
                let outcome = self.forwarder.run(context, batch.arrivals.iter());
                self.count(outcome);
            }
            Command::Use {
                family,
                generation,
                socket,
            } => {
                self.sockets[family as usize] = Some(socket);
                self.generations[family as usize] = generation;
                self.overflow[family as usize] = 0;
            }
            Command::Close { family, generation } => {
                if self.generations[family as usize] == generation {
                    self.sockets[family as usize] = None;
                }
            }
            Command::Broken { family, generation } => self.lose(family, generation),
            Command::Forget(due) => {
                if let Some(port_binder) = &mut self.port_binder {
                    port_binder.forget = Some(due);
                }
            }
            Command::Sessions(answer) => {
                answer.send(self.core.sessions().collect()).ok();
            }
            Command::Snapshot(answer) => {
                let snapshot = Snapshot {
                    counters: self.core.counters().clone(),
                    sessions: self.core.session_counts(),
                    sockets: self.counters,
                    kernel: None,
                    latency: self.latency,
                };
                answer.send(snapshot).ok();
            }
            Command::Export(answer) => {
                answer.send(self.core.export(self.now())).ok();
            }
            Command::Stop | Command::HandOver(_) => unreachable!("handled by the caller"),
        }
    }

    fn run_timers(&mut self) {
        let now = self.now();
        for _ in 0..DUE {
            let Some(vni) = self.core.due(now) else {
                break;
            };
            self.learn_activity(vni, now);
            self.core.handle_due(now);
        }
        self.forget(now);
        let Some(port_binder) = &mut self.port_binder else {
            return;
        };
        if port_binder
            .port
            .due()
            .is_some_and(|due| due <= Instant::now())
        {
            let (state, bound) = port_binder.port.bind();
            if port_binder.bound_before {
                self.counters.rebinds += bound.len() as u64;
            }
            port_binder.bound_before |= matches!(state, PortState::Bound(_));
            for bound in bound {
                distribute(&self.workers.handles, bound);
            }
            port_binder.state.send_if_modified(|known| {
                *known != state && {
                    *known = state;
                    true
                }
            });
        }
    }

    /// Gives back memory that was of use to clients which are quiet now.
    fn forget(&mut self, now: Timestamp) {
        let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= now);
        let mut freed = is_due(self.core.poll_forget()) && self.core.forget(now);
        if let Some(port_binder) = &mut self.port_binder
            && is_due(port_binder.forget)
        {
            let more;
            (more, port_binder.forget) = port_binder.allocator.forget(now);
            freed |= more;
        }
        if freed {
            memory::trim();
        }
        if is_due(self.quiet()) {
            self.batch.release();
            self.heard = None;
        }
    }

    /// When memory of the receive buffers is given back, if nothing comes until then.
    fn quiet(&self) -> Option<Timestamp> {
        self.heard.map(|heard| heard + QUIET)
    }

    /// Closes the sockets of one IP version in every thread; the port_binder binds them again.
    fn lose(&mut self, family: Family, generation: u64) {
        if let Some(port_binder) = &mut self.port_binder
            && port_binder.port.lose(family, generation)
        {
            for handle in &*self.workers.handles {
                handle.send(Command::Close { family, generation });
            }
        }
    }

    /// Reads from one socket and carries out the verdicts; whether more may wait.
    fn serve(&mut self, family: Family) -> bool {
        for _ in 0..BUDGET {
            let Some(socket) = &self.sockets[family as usize] else {
                return false;
            };
            match self.batch.receive(socket) {
                Ok(taken) => {
                    let (count, now) = (taken.count, self.now());
                    self.heard = Some(now);
                    self.backlogs[family as usize].record_batch(count == SLOTS);
                    self.count_overflow(family);
                    let context = BatchContext {
                        now,
                        core: &mut self.core,
                        sockets: &self.sockets,
                        data: self.batch.all(),
                        backlog: &mut self.backlogs[family as usize],
                    };
                    let outcome = self.forwarder.run(context, self.batch.arrivals(taken));
                    self.intake.add(count, outcome.handshakes);
                    self.count(outcome);
                    self.sample(outcome);
                    // What came meanwhile is forget_scheduled by the wait.
                    if !taken.full {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?family, "UDP socket broke; binding it again");
                    self.sockets[family as usize] = None;
                    self.workers.handles[0].send(Command::Broken {
                        family,
                        generation: self.generations[family as usize],
                    });
                    return false;
                }
            }
        }
        true
    }

    const fn count(&mut self, outcome: Outcome) {
        self.counters.send_failed += outcome.sent.failed;
        self.counters.send_no_room += outcome.sent.no_room;
        self.counters.not_handed += outcome.not_handed;
    }

    /// The first datagram of a batch waited longest. Both times are of the clock that the kernel
    /// stamps with; it may have been set in between, so odd ones are left out.
    fn sample(&mut self, outcome: Outcome) {
        let stamp = self.batch.take_stamp().filter(|_| outcome.handled);
        let since = |stamp: SystemTime| SystemTime::now().duration_since(stamp).ok();
        if let Some(time) = stamp.and_then(since).filter(|time| *time < ODD) {
            self.latency.record(time);
        }
    }

    /// The kernel counts per socket, in 32 bits.
    fn count_overflow(&mut self, family: Family) {
        let known = &mut self.overflow[family as usize];
        let now = self.batch.take_overflow();
        let Some(now) = now else { return };
        self.counters.receive_overflow += u64::from(now.wrapping_sub(*known));
        *known = now;
    }

    /// Tells the core when the kernel path last heard of a session.
    fn learn_activity(&mut self, vni: Vni, now: Timestamp) {
        let kernel = self.kernel.as_ref();
        if let Some(activity) = kernel.and_then(|kernel| kernel.activity(vni, now)) {
            self.core
                .handle_activity(vni, activity.map(|leg| leg.last_seen));
        }
    }

    /// What the socket path itself has no use for.
    fn handle_events(&mut self) {
        while let Some(event) = self.core.poll_event() {
            if let Some(kernel) = &self.kernel {
                kernel.record(&event);
            }
            self.changes.notify_one();
            match event {
                Event::Opened { vni, .. } => tracing::debug!(%vni, "session open"),
                Event::Moved { vni, .. } => tracing::debug!(%vni, "session moved"),
                Event::Closed { vni, reason } => tracing::debug!(%vni, ?reason, "session closed"),
            }
        }
    }

    /// Waits: for more datagrams to gather at the sockets that had some, or for anything.
    fn next(&mut self, ready: Ready, busy: bool) -> io::Result<Ready> {
        let intake = std::mem::take(&mut self.intake);
        match self.coalescer.delay(intake, self.now()).filter(|_| !busy) {
            Some(time) => {
                let [waker, ..] = wait(&[(self.waker.as_fd(), Interest::Read)], Some(time))?;
                Ok(Ready { waker, ..ready })
            }
            None => self.wait(busy),
        }
    }

    fn wait(&mut self, busy: bool) -> io::Result<Ready> {
        let waker = (self.waker.as_fd(), Interest::Read);
        let [v4, v6] = Family::ALL.map(|family| {
            let socket = self.sockets[family as usize].as_ref();
            socket.map_or(waker, |socket| (socket.as_fd(), Interest::Read))
        });
        let now = self.now();
        let port_binder = self.port_binder.as_ref();
        let bind = port_binder.and_then(|port_binder| port_binder.port.due());
        let bind = bind.map(|due| due.saturating_duration_since(Instant::now()));
        let due = [
            self.core.poll_timeout(),
            self.core.poll_forget(),
            port_binder.and_then(|port_binder| port_binder.forget),
            self.quiet(),
        ];
        let due = due.into_iter().flatten().min();
        let time = match busy {
            true => Some(Duration::ZERO),
            false => due.map(|due| due.since(now)).into_iter().chain(bind).min(),
        };
        let [waker, v4, v6, _] = wait(&[waker, v4, v6], time)?;
        Ok(Ready {
            waker,
            sockets: [v4, v6],
        })
    }

    fn now(&self) -> Timestamp {
        moment(self.start)
    }
}

/// Time as the cores see it: `start` lies far from the beginning, so that sessions can be older
/// than the process.
pub(super) fn moment(start: Instant) -> Timestamp {
    const BEFORE: Duration = Duration::from_secs(400 * 24 * 3600);
    Timestamp::from_start(BEFORE + start.elapsed())
}

/// Gives each thread its socket.
pub(super) fn distribute(handles: &[WorkerHandle], bound: Bound) {
    let Bound {
        family,
        generation,
        sockets,
    } = bound;
    for (handle, socket) in handles.iter().zip(sockets) {
        handle.send(Command::Use {
            family,
            generation,
            socket,
        });
    }
}

/// Errors that say something about one datagram or one moment, not about the socket.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::EINTR,
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ENOMEM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| passing.contains(&code))
}
