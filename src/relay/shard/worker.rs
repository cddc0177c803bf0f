//! The thread's loop.

use std::{
    io,
    os::fd::AsFd,
    sync::mpsc,
    time::{Duration, Instant},
};

use relay_proto::{Event, Family, Relay, Timestamp};
use tokio::sync::watch;

use super::{
    Command, ShardOptions, Snapshot, SocketCounters,
    forward::Forwarder,
    port::{Port, PortState},
};
use crate::relay::socket::{Interest, ReceiveBatch, Waker, wait};

/// Batches taken from one socket before anything else gets its turn.
const BUDGET: usize = 16;
/// Commands taken before the sockets get their turn.
const COMMANDS: usize = 64;

/// What has something to read.
struct Ready {
    waker: bool,
    sockets: [bool; 2],
}

/// State of the thread.
pub(super) struct Worker {
    relay: Relay,
    start: Instant,
    port: Port,
    port_state: watch::Sender<PortState>,
    bound_before: bool,
    inbox: mpsc::Receiver<Command>,
    waker: Waker,
    batch: ReceiveBatch,
    forwarder: Forwarder,
    overflow: [u32; 2],
    counters: SocketCounters,
    accepting: bool,
    draining: bool,
}

impl Worker {
    pub(super) fn new(
        options: ShardOptions,
        inbox: mpsc::Receiver<Command>,
        waker: Waker,
        port_state: watch::Sender<PortState>,
    ) -> Self {
        let ShardOptions {
            port,
            config,
            keys,
            seed,
            first_lamport,
        } = options;
        Self {
            relay: Relay::new(config, keys, seed, first_lamport, Timestamp::START),
            start: Instant::now(),
            port: Port::new(port),
            port_state,
            bound_before: false,
            inbox,
            waker,
            batch: ReceiveBatch::default(),
            forwarder: Forwarder::default(),
            overflow: [0; 2],
            counters: SocketCounters::default(),
            accepting: true,
            draining: false,
        }
    }

    /// Runs until it is told to stop. Each turn: commands, timers, the sockets that have something,
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
            self.note_events();
            ready = match self.wait(busy) {
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
                Ok(command) => self.run_command(command),
                Err(mpsc::TryRecvError::Empty) => return Some(false),
            }
        }
        Some(true)
    }

    /// Who asked may have gone; then the answer goes nowhere.
    fn run_command(&mut self, command: Command) {
        match command {
            Command::HandleDerp {
                from,
                packet,
                answer,
            } => {
                let now = self.now();
                answer
                    .send(self.relay.handle_derp(from.as_ref(), &packet, now))
                    .ok();
            }
            Command::SetAddresses(addresses) => self.relay.set_addresses(addresses),
            Command::SetAccepting(accepting) => {
                self.accepting = accepting;
                self.relay.set_accepting(self.accepting && !self.draining);
            }
            Command::Drain => {
                self.draining = true;
                self.relay.set_accepting(false);
            }
            Command::Sessions(answer) => {
                answer.send(self.relay.sessions().collect()).ok();
            }
            Command::Snapshot(answer) => {
                let snapshot = Snapshot {
                    counters: self.relay.counters().clone(),
                    sessions: self.relay.session_counts(),
                    sockets: self.counters,
                };
                answer.send(snapshot).ok();
            }
            Command::Stop => unreachable!("handled by the caller"),
        }
    }

    fn run_timers(&mut self) {
        let now = self.now();
        if self.relay.poll_timeout().is_some_and(|due| due <= now) {
            self.relay.handle_timeout(now);
        }
        if self.port.due().is_some_and(|due| due <= Instant::now()) {
            let (state, bound) = self.port.bind();
            if self.bound_before {
                self.counters.rebinds += bound;
            }
            self.bound_before |= matches!(state, PortState::Bound(_));
            self.port_state.send_if_modified(|known| {
                *known != state && {
                    *known = state;
                    true
                }
            });
        }
    }

    /// Reads from one socket and carries out the verdicts; whether more may wait.
    fn serve(&mut self, family: Family) -> bool {
        for _ in 0..BUDGET {
            let Some(socket) = self.port.socket(family) else {
                return false;
            };
            match self.batch.receive(socket) {
                Ok(count) => {
                    self.count_overflow(family);
                    let now = self.now();
                    let sent =
                        self.forwarder
                            .run(&mut self.relay, &self.batch, count, now, &self.port);
                    self.counters.send_failed += sent.failed;
                    self.counters.send_no_room += sent.no_room;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, ?family, "UDP socket broke; binding it again");
                    self.port.lose(family);
                    return false;
                }
            }
        }
        true
    }

    /// The kernel counts per socket, in 32 bits.
    fn count_overflow(&mut self, family: Family) {
        let known = &mut self.overflow[family as usize];
        let now = self.batch.take_overflow();
        let Some(now) = now else { return };
        self.counters.receive_overflow += u64::from(now.wrapping_sub(*known));
        *known = now;
    }

    /// What the socket path itself has no use for, and others will.
    fn note_events(&mut self) {
        while let Some(event) = self.relay.poll_event() {
            match event {
                Event::Opened { vni, .. } => tracing::debug!(%vni, "session open"),
                Event::Moved { vni, .. } => tracing::debug!(%vni, "session moved"),
                Event::Closed { vni, reason } => tracing::debug!(%vni, ?reason, "session closed"),
            }
        }
    }

    fn wait(&self, busy: bool) -> io::Result<Ready> {
        let waker = (self.waker.as_fd(), Interest::Read);
        let [v4, v6] = Family::ALL.map(|family| {
            let socket = self.port.socket(family);
            socket.map_or(waker, |socket| (socket.as_fd(), Interest::Read))
        });
        let now = self.now();
        let timeout = self.relay.poll_timeout().map(|due| due.since(now));
        let bind = self.port.due();
        let bind = bind.map(|due| due.saturating_duration_since(Instant::now()));
        let time = match busy {
            true => Some(Duration::ZERO),
            false => [timeout, bind].into_iter().flatten().min(),
        };
        let [waker, v4, v6, _] = wait(&[waker, v4, v6], time)?;
        Ok(Ready {
            waker,
            sockets: [v4, v6],
        })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_start(self.start.elapsed())
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
