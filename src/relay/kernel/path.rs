//! The handle by which other threads use the kernel path.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use relay_proto::{Activity, Event, SessionInfo, State, Timestamp, Traffic, Vni};
use tokio::sync::watch;

use super::{
    availability::PathState, counters::KernelCounters, entries::Entries, program::CounterMaps, sys,
};
use crate::relay::socket::Waker;

/// A session that both clients have bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// Number of the session in every datagram.
    pub vni: Vni,
    /// Addresses of leg A and leg B.
    pub legs: [SocketAddr; 2],
    /// Local address through which each leg was bound, where it is known.
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

/// Handle of the kernel path; clones share it, on any thread.
#[derive(Clone)]
pub struct KernelPath(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) waker: Waker,
    pub(super) state: watch::Receiver<PathState>,
    pub(super) entries: Entries,
    pub(super) counters: CounterMaps,
    pub(super) relay_tat: Option<&'static AtomicU64>,
    pub(super) vnis: &'static [AtomicU64],
    pub(super) detached: Arc<AtomicU64>,
}

/// A request of a [`KernelPath`] to the thread that keeps the maps.
pub(super) enum Request {
    /// Enters a session, or what has changed of it.
    Place(OpenSession),
    /// Removes the entry of a session.
    Remove(Vni),
    /// Removes the entries of all other sessions.
    Retain(Vec<OpenSession>),
    /// Forwards for this UDP port from now on.
    Port(Option<u16>),
    /// Ends the thread.
    Stop {
        /// Time for which the program goes on forwarding; `None` removes it.
        leave: Option<Duration>,
        done: mpsc::Sender<()>,
    },
}

impl KernelPath {
    /// Enters or removes a session, as the core has decided.
    pub fn record(&self, event: &Event) {
        self.send(match *event {
            Event::Opened { vni, legs, locals } | Event::Moved { vni, legs, locals } => {
                Request::Place(OpenSession { vni, legs, locals })
            }
            Event::Closed { vni, .. } => Request::Remove(vni),
        });
    }

    /// Makes these the only sessions; those that an earlier process left besides them end.
    pub fn retain(&self, open: Vec<OpenSession>) {
        self.send(Request::Retain(open));
    }

    /// Sets the relay's UDP port; `None` while there is none.
    pub fn set_port(&self, port: Option<u16>) {
        self.send(Request::Port(port));
    }

    /// Traffic from leg A and leg B, and the time of its last datagram, to a tenth of a second; `None` when
    /// the session has no entry.
    pub fn activity(&self, vni: Vni, now: Timestamp) -> Option<[Activity; 2]> {
        let legs = self.heard(vni)?;
        Some(legs.map(|(traffic, silence)| Activity {
            traffic,
            last_seen: now.before(silence),
        }))
    }

    /// Adds to saved sessions the time of the last datagram that came by this path. It takes a system call
    /// for each session, so it is not for a thread that forwards.
    pub fn complete(&self, state: &mut State) {
        state.record_silence(|vni| Some(self.heard(vni)?.map(|(_, silence)| silence)));
    }

    /// Traffic from leg A and leg B, and the time since its last datagram.
    fn heard(&self, vni: Vni) -> Option<[(Traffic, Duration); 2]> {
        let session = self.0.entries.get(vni.number())?;
        let clock = sys::monotonic_ns();
        let heard = session.usage.from;
        Some(heard.map(|leg| (leg.traffic, leg.silence(clock))))
    }

    /// Counts of the program since it was loaded first.
    pub fn counters(&self) -> KernelCounters {
        let detached = self.0.detached.load(Ordering::Relaxed);
        KernelCounters::read(&self.0.counters, detached)
    }

    /// The path that forwards, and its changes.
    pub fn state(&self) -> watch::Receiver<PathState> {
        self.0.state.clone()
    }

    /// Ends the thread and waits for it. With `leave`, a pinned program goes on forwarding for this much
    /// time, for the next process; without, nothing stays in the kernel.
    pub fn stop(&self, leave: Option<Duration>) {
        let (done, ended) = mpsc::channel();
        self.send(Request::Stop { leave, done });
        // An error means that the thread has ended already.
        ended.recv().ok();
    }

    fn send(&self, request: Request) {
        // In this order: the thread forgets wakes before it reads requests, so it never misses one. An
        // error means that it has ended; then the sockets forward, and the request is of no use.
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
