//! Which thread has which sessions, and how threads reach each other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use relay_proto::{Lane, geneve::Header};

use super::{Command, aside::Aside};
use crate::relay::socket::{Arrival, Waker};

/// Bytes of datagrams that may wait for a thread, handed over by others.
const MOST_WAITING: usize = 4 << 20;

/// Datagrams that came to one thread and belong to another.
///
/// The kernel steers a super-datagram by its first segment. Merged from datagrams of several
/// sessions of one client, it holds segments for other threads too.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    /// Where in `bytes` each lies.
    pub(super) arrivals: Vec<Arrival>,
    pub(super) bytes: Vec<u8>,
}

impl Parcel {
    pub(super) fn push(&mut self, arrival: &Arrival, bytes: &[u8], segment_len: usize) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.arrivals.push(Arrival {
            range: start..self.bytes.len(),
            segment_len,
            ..arrival.clone()
        });
    }

    pub(super) fn datagrams(&self) -> u64 {
        let count = |a: &Arrival| a.range.len().div_ceil(a.segment_len.max(1)).max(1) as u64;
        self.arrivals.iter().map(count).sum()
    }
}

/// The way to one thread.
#[derive(Debug, Clone)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    waiting: Arc<AtomicUsize>,
}

impl Link {
    pub(super) fn new(commands: mpsc::Sender<Command>, waker: Waker) -> Self {
        Self {
            commands,
            waker,
            waiting: Arc::default(),
        }
    }

    pub(super) fn tell(&self, command: Command) {
        // An error means that the thread has ended; who owns it notices.
        self.commands.send(command).ok();
        self.waker.wake();
    }

    /// Hands over a parcel, unless too much waits already; then it is lost.
    pub(super) fn hand(&self, parcel: Parcel) -> Result<(), Parcel> {
        let len = parcel.bytes.len();
        if self.waiting.fetch_add(len, Ordering::Relaxed) > MOST_WAITING {
            self.taken(&parcel);
            return Err(parcel);
        }
        self.tell(Command::Parcel(parcel));
        Ok(())
    }

    /// A parcel was taken out of the thread's queue.
    pub(super) fn taken(&self, parcel: &Parcel) {
        self.waiting
            .fetch_sub(parcel.bytes.len(), Ordering::Relaxed);
    }
}

/// One thread's share of the lanes, and the ways to the others.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    pub(super) own: usize,
    pub(super) links: Arc<[Link]>,
    pub(super) aside: Aside,
}

impl Lanes {
    /// The thread that has `lane`, of `threads`. The same rule steers datagrams to sockets.
    pub(super) const fn thread(lane: Lane, threads: usize) -> usize {
        lane.number() % threads
    }

    /// The other thread that a datagram belongs to; `None` when it is this one's, or nobody's.
    pub(super) fn other(&self, datagram: &[u8]) -> Option<usize> {
        if self.links.len() == 1 {
            return None;
        }
        let lane = Lane::of(Header::decode(datagram)?.vni);
        let thread = Self::thread(lane, self.links.len());
        (thread != self.own).then_some(thread)
    }
}
