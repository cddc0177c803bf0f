//! Worker threads as they reach each other, and the rule that gives each its sessions.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use relay_proto::{Shard, geneve::Header};

use super::{command::Command, demux::Demux, handoff::HandoffBatch};
use crate::relay::socket::Waker;

/// Bytes of datagrams that may wait for a thread, handed off by others.
const MAX_WAITING: usize = 4 << 20;

/// Receiving end of a worker thread's queue, and what wakes the thread.
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) waker: Waker,
}

/// Handle of one worker thread.
#[derive(Debug, Clone)]
pub(super) struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    waker: Waker,
    waiting: Arc<AtomicUsize>,
}

impl WorkerHandle {
    /// Makes the queue of a thread that is not started yet.
    pub(super) fn new() -> io::Result<(Self, Inbox)> {
        let (sender, commands) = mpsc::channel();
        let waker = Waker::new()?;
        let handle = Self {
            commands: sender,
            waker: waker.clone(),
            waiting: Arc::default(),
        };
        Ok((handle, Inbox { commands, waker }))
    }

    pub(super) fn send(&self, command: impl Into<Command>) {
        // An error means that the thread has ended, which its driver reports.
        self.commands.send(command.into()).ok();
        self.waker.wake();
    }

    /// Hands a batch off to the thread, or returns it when too many bytes wait there already.
    pub(super) fn hand_off(&self, batch: HandoffBatch) -> Result<(), HandoffBatch> {
        let len = batch.bytes.len();
        // What waited before this batch counts, so that one that is larger than the limit gets in when
        // none waits.
        if self.waiting.fetch_add(len, Ordering::Relaxed) > MAX_WAITING {
            self.record_taken(&batch);
            return Err(batch);
        }
        self.send(batch);
        Ok(())
    }

    /// Records that a batch was taken out of the thread's queue.
    pub(super) fn record_taken(&self, batch: &HandoffBatch) {
        self.waiting.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
    }
}

/// All worker threads, as one of them sees them.
#[derive(Debug, Clone)]
pub(super) struct Workers {
    /// Index of the thread itself.
    pub(super) own: usize,
    pub(super) handles: Arc<[WorkerHandle]>,
    pub(super) demux: Demux,
}

impl Workers {
    /// Index of the thread that has `shard`, of `threads`. The same rule steers datagrams to
    /// sockets (`socket/steer.rs`).
    pub(super) const fn thread(shard: Shard, threads: usize) -> usize {
        shard.number() % threads
    }

    /// Index of the other thread that a datagram belongs to; `None` when it belongs to this thread,
    /// or to no session.
    pub(super) fn other(&self, datagram: &[u8]) -> Option<usize> {
        if self.handles.len() == 1 {
            return None;
        }
        let shard = Shard::of(Header::decode(datagram)?.vni);
        let thread = Self::thread(shard, self.handles.len());
        (thread != self.own).then_some(thread)
    }
}
