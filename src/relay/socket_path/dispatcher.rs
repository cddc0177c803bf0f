//! What stands before the threads: opens allocation requests, so that their cryptography costs no
//! datagram its time, and passes each on to the thread that has the pair.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::{Duration, Instant},
};

use relay_proto::{
    Allocation, Allocator, Config, Counters, DropReason, Keys, NodeKey, Peer, Request, Timestamp,
};
use tokio::sync::oneshot;

use super::{
    Command, Snapshot,
    worker::moment,
    workers::{WorkerHandle, Workers},
};

/// When to come again to an allocator that is busy.
const LATER: Duration = Duration::from_millis(50);

pub(super) struct Dispatcher {
    allocator: SharedAllocator,
    handles: Arc<[WorkerHandle]>,
    start: Instant,
}

/// The allocator, which the first thread tidies up: whoever asks may not come again.
#[derive(Clone)]
pub(super) struct SharedAllocator(Arc<Mutex<State>>);

struct State {
    allocator: Allocator,
    counters: Counters,
    accepting: bool,
    draining: bool,
    /// Nodes that may ask, as of the last revocation.
    allowed: Option<Arc<BTreeSet<NodeKey>>>,
    withdrawn: bool,
    /// The first thread knows that there is something to forget.
    forget_scheduled: bool,
}

impl State {
    fn update_accepting(&mut self) {
        let accepting = self.accepting && !self.draining && !self.withdrawn;
        self.allocator.set_accepting(accepting);
    }
}

impl SharedAllocator {
    /// As [`Allocator::forget`], and when to come again. Waits for nobody: an allocator that is busy has time
    /// later.
    pub(super) fn forget(&self, now: Timestamp) -> (bool, Option<Timestamp>) {
        let mut state = match self.0.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return (false, Some(now + LATER)),
        };
        let freed = state.allocator.forget(now);
        let next = state.allocator.poll_forget();
        state.forget_scheduled = next.is_some();
        (freed, next)
    }

    #[cfg(test)]
    pub(super) fn is_tidy(&self) -> bool {
        self.state().allocator.poll_forget().is_none()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatcher {
    /// `start` is the moment that the cores' time counts from.
    pub(super) fn new(
        config: &Config,
        keys: &Keys,
        handles: Arc<[WorkerHandle]>,
        start: Instant,
    ) -> Self {
        let state = State {
            allocator: Allocator::new(config, keys),
            counters: Counters::default(),
            accepting: true,
            draining: false,
            allowed: None,
            withdrawn: false,
            forget_scheduled: false,
        };
        Self {
            allocator: SharedAllocator(Arc::new(Mutex::new(state))),
            handles,
            start,
        }
    }

    pub(super) fn allocator(&self) -> SharedAllocator {
        self.allocator.clone()
    }

    pub(super) fn workers(&self) -> &[WorkerHandle] {
        &self.handles
    }

    pub(super) async fn handle_derp(
        &self,
        from: Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        let (request, allocation) = self.open(from.as_ref(), &packet)?;
        let allocation = allocation.await.unwrap_or(Err(DropReason::NotAccepting))?;
        let nonce = rand::random();
        let state = &mut *self.allocator.state();
        let answer = state.allocator.answer(&request, allocation, nonce);
        self.schedule_forget(state);
        Ok(answer)
    }

    /// Opens a request and passes it to its thread. The allocator stays locked until the thread has the
    /// request: a revocation comes either after it, or before it and refuses it.
    fn open(
        &self,
        from: Option<&Peer>,
        packet: &[u8],
    ) -> Result<(Request, oneshot::Receiver<Result<Allocation, DropReason>>), DropReason> {
        let now = moment(self.start);
        let state = &mut *self.allocator.state();
        let opened = state.allocator.open(from, packet, now);
        self.schedule_forget(state);
        let opened = opened.and_then(|request| {
            let allowed = |peer: &Peer| match &state.allowed {
                Some(allowed) => allowed.contains(&peer.node_key),
                None => true,
            };
            let allowed = from.is_some_and(allowed);
            allowed.then_some(request).ok_or(DropReason::NoGrant)
        });
        let request = opened.inspect_err(|reason| state.counters.count_drop(*reason))?;
        let (answer, allocation) = oneshot::channel();
        let thread = Workers::thread(request.shard(), self.handles.len());
        self.handles[thread].send(Command::Allocate { request, answer });
        Ok((request, allocation))
    }

    /// Has the first thread come once there is something to forget.
    fn schedule_forget(&self, state: &mut State) {
        if let Some(due) = state
            .allocator
            .poll_forget()
            .filter(|_| !state.forget_scheduled)
        {
            state.forget_scheduled = true;
            self.handles[0].send(Command::Forget(due));
        }
    }

    /// Ends the sessions of all other nodes, and refuses what they ask for from now on.
    pub(super) fn revoke(&self, allowed: BTreeSet<NodeKey>) {
        let allowed = Arc::new(allowed);
        let state = &mut *self.allocator.state();
        state.allowed = Some(allowed.clone());
        for handle in &*self.handles {
            handle.send(Command::Revoke(allowed.clone()));
        }
    }

    pub(super) fn set_addresses(&self, addresses: &[SocketAddr]) {
        self.allocator
            .state()
            .allocator
            .set_addresses(addresses.to_vec());
        for handle in &*self.handles {
            handle.send(Command::SetAddresses(addresses.to_vec()));
        }
    }

    pub(super) fn set_accepting(&self, accepting: bool) {
        let state = &mut *self.allocator.state();
        state.accepting = accepting;
        state.update_accepting();
    }

    pub(super) fn set_withdrawn(&self, withdrawn: bool) {
        let state = &mut *self.allocator.state();
        state.withdrawn = withdrawn;
        state.update_accepting();
    }

    pub(super) fn drain(&self) {
        let state = &mut *self.allocator.state();
        state.draining = true;
        state.update_accepting();
    }

    /// What never reached a thread.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            counters: self.allocator.state().counters.clone(),
            ..Snapshot::default()
        }
    }

    pub(super) fn stop(&self) {
        for handle in &*self.handles {
            handle.send(Command::Stop);
        }
    }
}

impl Drop for Dispatcher {
    /// The threads hold ways to each other, so nobody else would end them.
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}
