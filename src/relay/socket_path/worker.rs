//! Loop of a worker thread.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, mpsc::TryRecvError},
    time::{Duration, SystemTime},
};

use relay_proto::{Event, Family, Timestamp, Vni};
use tokio::sync::{Notify, mpsc::UnboundedSender};

use super::{
    Clock, Core, Snapshot, SocketCounters,
    backlog::Backlog,
    coalescer::{Coalescer, Intake},
    command::{Command, DispatcherCommand, HandleCommand},
    forward::{BatchContext, BatchResult, Forwarder},
    handoff::HandoffBatch,
    latency::Latency,
    port::{SocketChange, Sockets},
    port_binder::BrokenSocket,
    workers::{Inbox, Workers},
};
use crate::{
    memory,
    relay::{
        kernel::KernelPath,
        socket::{Interest, ReceiveBatch, SLOTS, wait},
    },
};

/// Batches that are read from one socket before commands and timers get their turn.
const MAX_BATCHES: usize = 16;
/// Commands that are carried out before the sockets get their turn.
const MAX_COMMANDS: usize = 64;
/// Sessions whose deadline is handled before the sockets get their turn. With a lookup in the
/// kernel's map for each, they take less than a millisecond.
const MAX_DEADLINES: usize = 256;
/// Time without datagrams after which memory of the receive buffers is freed.
const IDLE_RELEASE: Duration = Duration::from_secs(1);
/// Longest time in the relay that is believed; no datagram waits longer.
const MAX_LATENCY: Duration = Duration::from_secs(10);

/// Descriptors that have something to read.
struct Ready {
    waker: bool,
    sockets: [bool; 2],
}

/// Parts that a worker shares with the other threads and tasks.
#[derive(Clone)]
pub(super) struct WorkerContext {
    pub(super) clock: Clock,
    pub(super) kernel: Option<KernelPath>,
    /// Notified when a session was opened, moved or closed.
    pub(super) changes: Arc<Notify>,
    /// Receives reports of broken sockets.
    pub(super) broken: UnboundedSender<BrokenSocket>,
}

/// State of a worker thread.
pub(super) struct Worker {
    core: Core,
    context: WorkerContext,
    workers: Workers,
    inbox: Inbox,
    sockets: Sockets,
    /// Generation of each socket, by IP version.
    generations: [u64; 2],
    batch: ReceiveBatch,
    /// Time of the last datagrams, until the memory of the receive buffers is freed.
    last_received: Option<Timestamp>,
    forwarder: Forwarder,
    /// Last count of lost datagrams that the kernel gave for each socket.
    overflow: [u32; 2],
    counters: SocketCounters,
    latency: Latency,
    intake: Intake,
    coalescer: Coalescer,
    backlogs: [Backlog; 2],
}

impl Worker {
    pub(super) fn new(core: Core, context: WorkerContext, workers: Workers, inbox: Inbox) -> Self {
        Self {
            core,
            context,
            forwarder: Forwarder::new(workers.clone()),
            workers,
            inbox,
            sockets: [None, None],
            generations: [0; 2],
            batch: ReceiveBatch::default(),
            last_received: None,
            overflow: [0; 2],
            counters: SocketCounters::default(),
            latency: Latency::default(),
            intake: Intake::default(),
            coalescer: Coalescer::default(),
            backlogs: Default::default(),
        }
    }

    /// Runs until a command ends the thread. Each turn carries out commands, timers, and the work of
    /// the sockets that are ready, and then waits unless there is more to do.
    pub(super) fn run(&mut self) {
        let mut ready = Ready {
            waker: true,
            sockets: [true; 2],
        };
        loop {
            // Before commands are read, so that one which is sent meanwhile ends the next wait.
            if ready.waker {
                self.inbox.waker.clear();
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

    /// Carries out commands. Returns whether more may wait, and `None` when the thread must end.
    fn run_commands(&mut self) -> Option<bool> {
        for _ in 0..MAX_COMMANDS {
            match self.inbox.commands.try_recv() {
                Ok(Command::Dispatcher(command)) => self.run_dispatcher_command(command),
                Ok(Command::Handle(command)) => self.run_handle_command(command)?,
                Ok(Command::PortBinder(change)) => self.change_socket(change),
                Ok(Command::Worker(batch)) => self.forward_handoff(&batch),
                Err(TryRecvError::Empty) => return Some(false),
                Err(TryRecvError::Disconnected) => return None,
            }
        }
        Some(true)
    }

    fn run_dispatcher_command(&mut self, command: DispatcherCommand) {
        match command {
            // The task that asked may have gone; then the answer is dropped.
            DispatcherCommand::Allocate {
                mark,
                request,
                answer,
            } => {
                answer.send(self.core.allocate(&request)).ok();
                drop(mark);
            }
            DispatcherCommand::SetAddresses(addresses) => self.core.set_addresses(&addresses),
            DispatcherCommand::Revoke(nodes) => self.core.revoke(&nodes, self.now()),
        }
    }

    /// Carries out a command; `None` when it ends the thread.
    fn run_handle_command(&mut self, command: HandleCommand) -> Option<()> {
        match command {
            HandleCommand::Send { to, from, datagram } => {
                let result = self.forwarder.send(&self.sockets, to, from, &datagram);
                self.count(result);
            }
            HandleCommand::Sessions(answer) => {
                answer.send(self.core.sessions().collect()).ok();
            }
            HandleCommand::Snapshot(answer) => {
                let snapshot = Snapshot {
                    counters: self.core.counters().clone(),
                    sessions: self.core.session_counts(),
                    sockets: self.counters,
                    kernel: None,
                    latency: self.latency,
                };
                answer.send(snapshot).ok();
            }
            HandleCommand::Export(answer) => {
                answer.send(self.core.export(self.now())).ok();
            }
            HandleCommand::HandOver(answer) => {
                // Nothing is handled after the export, so the successor gets the last state. Datagrams
                // wait in the sockets.
                let state = self.core.export(self.now());
                answer.send((state, std::mem::take(&mut self.sockets))).ok();
                return None;
            }
            HandleCommand::Stop => return None,
        }
        Some(())
    }

    fn change_socket(&mut self, change: SocketChange) {
        match change {
            SocketChange::Use {
                family,
                generation,
                socket,
            } => {
                self.sockets[family as usize] = Some(socket);
                self.generations[family as usize] = generation;
                // The kernel counts losses for each socket, from zero.
                self.overflow[family as usize] = 0;
            }
            SocketChange::Close { family, generation } => {
                // A socket of a later generation is not the one that broke.
                if self.generations[family as usize] == generation {
                    self.sockets[family as usize] = None;
                }
            }
        }
    }

    fn forward_handoff(&mut self, batch: &HandoffBatch) {
        self.workers.handles[self.workers.own].record_taken(batch);
        let context = BatchContext {
            now: self.now(),
            core: &mut self.core,
            sockets: &self.sockets,
            data: &batch.bytes,
            // The thread that handed it off has limited its handshakes.
            backlog: &mut Backlog::default(),
        };
        let result = self.forwarder.run(context, batch.arrivals.iter());
        self.count(result);
    }

    fn run_timers(&mut self) {
        let now = self.now();
        for _ in 0..MAX_DEADLINES {
            let Some(vni) = self.core.due(now) else {
                break;
            };
            self.learn_activity(vni, now);
            self.core.handle_due(now);
        }
        self.free_memory(now);
    }

    /// Frees memory that served clients which are quiet now.
    fn free_memory(&mut self, now: Timestamp) {
        let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= now);
        if is_due(self.core.poll_forget()) && self.core.forget(now) {
            memory::trim();
        }
        if is_due(self.buffers_due()) {
            self.batch.release();
            self.last_received = None;
        }
    }

    /// Time at which the memory of the receive buffers is freed, if nothing is received until then.
    fn buffers_due(&self) -> Option<Timestamp> {
        self.last_received.map(|received| received + IDLE_RELEASE)
    }

    /// Reads from one socket and carries out the verdicts. Returns whether more may wait there.
    fn serve(&mut self, family: Family) -> bool {
        for _ in 0..MAX_BATCHES {
            let Some(socket) = &self.sockets[family as usize] else {
                return false;
            };
            match self.batch.receive(socket) {
                Ok(taken) => {
                    let (count, now) = (taken.count, self.now());
                    self.last_received = Some(now);
                    self.backlogs[family as usize].record_batch(count == SLOTS);
                    self.count_overflow(family);
                    let context = BatchContext {
                        now,
                        core: &mut self.core,
                        sockets: &self.sockets,
                        data: self.batch.all(),
                        backlog: &mut self.backlogs[family as usize],
                    };
                    let result = self.forwarder.run(context, self.batch.arrivals(taken));
                    self.intake.add(count, result.handshakes);
                    self.count(result);
                    self.sample(result);
                    // Datagrams that came meanwhile make the next wait return at once.
                    if !taken.full {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_transient(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?family, "UDP socket broke; binding it again");
                    self.sockets[family as usize] = None;
                    let generation = self.generations[family as usize];
                    let broken = BrokenSocket { family, generation };
                    // An error means that the relay ends.
                    self.context.broken.send(broken).ok();
                    return false;
                }
            }
        }
        true
    }

    const fn count(&mut self, result: BatchResult) {
        self.counters.send_failed += result.sent.failed;
        self.counters.send_no_room += result.sent.no_room;
        self.counters.not_handed += result.not_handed;
    }

    /// Records the latency of a batch, which is that of its first datagram. Both times are of the
    /// clock that the kernel stamps with; it may have been set in between, so odd ones are left out.
    fn sample(&mut self, result: BatchResult) {
        let stamp = self.batch.take_stamp().filter(|_| result.handled);
        let since = |stamp: SystemTime| SystemTime::now().duration_since(stamp).ok();
        if let Some(time) = stamp.and_then(since).filter(|time| *time < MAX_LATENCY) {
            self.latency.record(time);
        }
    }

    /// Adds the datagrams that a socket has lost since the last count. The kernel counts per socket,
    /// in 32 bits.
    fn count_overflow(&mut self, family: Family) {
        let previous = &mut self.overflow[family as usize];
        let Some(current) = self.batch.take_overflow() else {
            return;
        };
        self.counters.receive_overflow += u64::from(current.wrapping_sub(*previous));
        *previous = current;
    }

    /// Passes on to the core when the kernel path last heard of a session.
    fn learn_activity(&mut self, vni: Vni, now: Timestamp) {
        let kernel = self.context.kernel.as_ref();
        if let Some(activity) = kernel.and_then(|kernel| kernel.activity(vni, now)) {
            self.core
                .handle_activity(vni, activity.map(|leg| leg.last_seen));
        }
    }

    /// Passes events of the core on to the kernel path and to the session file.
    fn handle_events(&mut self) {
        while let Some(event) = self.core.poll_event() {
            if let Some(kernel) = &self.context.kernel {
                kernel.record(&event);
            }
            self.context.changes.notify_one();
            match event {
                Event::Opened { vni, .. } => tracing::debug!(%vni, "session open"),
                Event::Moved { vni, .. } => tracing::debug!(%vni, "session moved"),
                Event::Closed { vni, reason } => tracing::debug!(%vni, ?reason, "session closed"),
            }
        }
    }

    /// Waits for something to do, or on purpose for more datagrams to come to the sockets that had
    /// some (see [`Coalescer`]).
    fn next(&mut self, ready: Ready, busy: bool) -> io::Result<Ready> {
        let intake = std::mem::take(&mut self.intake);
        match self.coalescer.delay(intake, self.now()).filter(|_| !busy) {
            Some(time) => {
                let waker = (self.inbox.waker.as_fd(), Interest::Read);
                let [waker, ..] = wait(&[waker], Some(time))?;
                Ok(Ready { waker, ..ready })
            }
            None => self.wait(busy),
        }
    }

    fn wait(&mut self, busy: bool) -> io::Result<Ready> {
        let waker = (self.inbox.waker.as_fd(), Interest::Read);
        let [v4, v6] = Family::ALL.map(|family| {
            let socket = self.sockets[family as usize].as_ref();
            socket.map_or(waker, |socket| (socket.as_fd(), Interest::Read))
        });
        let due = [
            self.core.poll_timeout(),
            self.core.poll_forget(),
            self.buffers_due(),
        ];
        let due = due.into_iter().flatten().min();
        let time = match busy {
            true => Some(Duration::ZERO),
            false => due.map(|due| due.since(self.now())),
        };
        let [waker, v4, v6, _] = wait(&[waker, v4, v6], time)?;
        Ok(Ready {
            waker,
            sockets: [v4, v6],
        })
    }

    fn now(&self) -> Timestamp {
        self.context.clock.now()
    }
}

/// Returns whether an error concerns one datagram or one moment, not the socket.
///
/// Linux reports ICMP errors of earlier datagrams at the next call on the socket (udp(7)), so a client
/// that is gone must not close the port for all others.
fn is_transient(error: &io::Error) -> bool {
    let transient = [
        libc::EINTR,
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ENOMEM,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| transient.contains(&code))
}
