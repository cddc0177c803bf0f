//! Which thread has which sessions, and how threads reach each other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use relay_proto::{Shard, geneve::Header};

use super::{Command, demux::Demux};
use crate::relay::socket::{Arrival, Waker};

/// Bytes of datagrams that may wait for a thread, handed over by others.
const MOST_WAITING: usize = 4 << 20;

/// Datagrams that came to one thread and belong to another.
///
/// The kernel steers a super-datagram by its first segment. Merged from datagrams of several
/// sessions of one client, it holds segments for other threads too.
#[derive(Debug, Default)]
pub(super) struct HandoffBatch {
    /// Where in `bytes` each lies.
    pub(super) arrivals: Vec<Arrival>,
    pub(super) bytes: Vec<u8>,
}

impl HandoffBatch {
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
pub(super) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    waiting: Arc<AtomicUsize>,
}

impl WorkerHandle {
    pub(super) fn new(commands: mpsc::Sender<Command>, waker: Waker) -> Self {
        Self {
            commands,
            waker,
            waiting: Arc::default(),
        }
    }

    pub(super) fn send(&self, command: Command) {
        // An error means that the thread has ended; who owns it notices.
        self.commands.send(command).ok();
        self.waker.wake();
    }

    /// Hands over a batch, unless too much waits already; then it is lost.
    pub(super) fn hand(&self, batch: HandoffBatch) -> Result<(), HandoffBatch> {
        let len = batch.bytes.len();
        if self.waiting.fetch_add(len, Ordering::Relaxed) > MOST_WAITING {
            self.taken(&batch);
            return Err(batch);
        }
        self.send(Command::Handoff(batch));
        Ok(())
    }

    /// A batch was taken out of the thread's queue.
    pub(super) fn taken(&self, batch: &HandoffBatch) {
        self.waiting.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
    }
}

/// One thread's share of the shards, and the ways to the others.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    pub(super) own: usize,
    pub(super) handles: Arc<[WorkerHandle]>,
    pub(super) demux: Demux,
}

impl Workers {
    /// The thread that has `shard`, of `threads`. The same rule steers datagrams to sockets.
    pub(super) const fn thread(shard: Shard, threads: usize) -> usize {
        shard.number() % threads
    }

    /// The other thread that a datagram belongs to; `None` when it is this one's, or nobody's.
    pub(super) fn other(&self, datagram: &[u8]) -> Option<usize> {
        if self.handles.len() == 1 {
            return None;
        }
        let shard = Shard::of(Header::decode(datagram)?.vni);
        let thread = Self::thread(shard, self.handles.len());
        (thread != self.own).then_some(thread)
    }
}
