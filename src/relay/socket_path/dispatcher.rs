//! Dispatch of allocation requests. The dispatcher opens each request outside of the worker threads,
//! so that no datagram waits for its cryptography, and passes it on to the thread that has the pair.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use relay_proto::{
    Allocation, Allocator, Config, Counters, DropReason, Keys, NodeKey, Peer, Request,
};
use tokio::{
    sync::{Notify, oneshot},
    time::sleep,
};

use super::{
    Clock, Snapshot,
    command::{DispatcherCommand, HandleCommand},
    workers::{WorkerHandle, Workers},
};
use crate::memory;

/// Result of a worker thread for an allocation request, once it has come.
type PendingAllocation = oneshot::Receiver<Result<Allocation, DropReason>>;

/// Opens allocation requests, and decides which are accepted.
pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    workers: Arc<[WorkerHandle]>,
    clock: Clock,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when the allocator may have memory to free later.
    used: Notify,
}

struct State {
    allocator: Allocator,
    counters: Counters,
    accepting: bool,
    draining: bool,
    withdrawn: bool,
    /// Nodes that may ask, as of the last revocation.
    allowed: Option<Arc<BTreeSet<NodeKey>>>,
}

impl State {
    fn update_accepting(&mut self) {
        let accepting = self.accepting && !self.draining && !self.withdrawn;
        self.allocator.set_accepting(accepting);
    }

    fn allows(&self, peer: &Peer) -> bool {
        let allowed = self.allowed.as_ref();
        allowed.is_none_or(|allowed| allowed.contains(&peer.node_key))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatcher {
    pub(super) fn new(
        config: &Config,
        keys: &Keys,
        workers: Arc<[WorkerHandle]>,
        clock: Clock,
    ) -> Self {
        let state = State {
            allocator: Allocator::new(config, keys),
            counters: Counters::default(),
            accepting: true,
            draining: false,
            withdrawn: false,
            allowed: None,
        };
        let shared = Shared {
            state: Mutex::new(state),
            used: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            workers,
            clock,
        }
    }

    /// Task that frees memory of the allocator.
    pub(super) fn cleanup(&self) -> AllocatorCleanup {
        AllocatorCleanup {
            shared: self.shared.clone(),
            clock: self.clock,
        }
    }

    pub(super) fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    pub(super) async fn handle_derp(
        &self,
        from: Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        let (request, allocation) = self.open(from.as_ref(), &packet)?;
        let allocation = allocation.await.unwrap_or(Err(DropReason::NotAccepting))?;
        let nonce = rand::random();
        let answer = self
            .shared
            .state()
            .allocator
            .answer(&request, allocation, nonce);
        self.shared.used.notify_one();
        Ok(answer)
    }

    /// Opens a request and sends it to its thread. The allocator stays locked until the thread has
    /// the request, so that a revocation either follows it there or has refused it here.
    fn open(
        &self,
        from: Option<&Peer>,
        packet: &[u8],
    ) -> Result<(Request, PendingAllocation), DropReason> {
        let state = &mut *self.shared.state();
        self.shared.used.notify_one();
        let opened = state.allocator.open(from, packet, self.clock.now());
        let opened = opened.and_then(|request| {
            // The peer was found in the network map before the lock was taken: its grant may have ended
            // since.
            let is_allowed = from.is_some_and(|peer| state.allows(peer));
            is_allowed.then_some(request).ok_or(DropReason::NoGrant)
        });
        let request = opened.inspect_err(|reason| state.counters.count_drop(*reason))?;
        let (answer, allocation) = oneshot::channel();
        let thread = Workers::thread(request.shard(), self.workers.len());
        self.workers[thread].send(DispatcherCommand::Allocate { request, answer });
        Ok((request, allocation))
    }

    /// Ends the sessions of all other nodes, and refuses their requests from now on.
    pub(super) fn revoke(&self, allowed: BTreeSet<NodeKey>) {
        let allowed = Arc::new(allowed);
        let state = &mut *self.shared.state();
        state.allowed = Some(allowed.clone());
        for worker in &*self.workers {
            worker.send(DispatcherCommand::Revoke(allowed.clone()));
        }
    }

    pub(super) fn set_addresses(&self, addresses: &[SocketAddr]) {
        // The lock is held while commands are sent, so that two calls reach every thread in one order.
        let state = &mut *self.shared.state();
        state.allocator.set_addresses(addresses.to_vec());
        for worker in &*self.workers {
            worker.send(DispatcherCommand::SetAddresses(addresses.to_vec()));
        }
    }

    pub(super) fn set_accepting(&self, accepting: bool) {
        let state = &mut *self.shared.state();
        state.accepting = accepting;
        state.update_accepting();
    }

    pub(super) fn set_withdrawn(&self, withdrawn: bool) {
        let state = &mut *self.shared.state();
        state.withdrawn = withdrawn;
        state.update_accepting();
    }

    pub(super) fn drain(&self) {
        let state = &mut *self.shared.state();
        state.draining = true;
        state.update_accepting();
    }

    /// Counters of requests that never reached a thread.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            counters: self.shared.state().counters.clone(),
            ..Snapshot::default()
        }
    }

    pub(super) fn stop(&self) {
        for worker in &*self.workers {
            worker.send(HandleCommand::Stop);
        }
    }

    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.shared.state().allocator.poll_forget().is_none()
    }
}

impl Drop for Dispatcher {
    /// Ends the threads, which hold handles of each other and so never see their queues close.
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").finish_non_exhaustive()
    }
}

/// Frees memory that the allocator keeps for clients which have become quiet.
pub(super) struct AllocatorCleanup {
    shared: Arc<Shared>,
    clock: Clock,
}

impl AllocatorCleanup {
    /// Frees memory whenever it is due, for as long as this is polled.
    pub(super) async fn run(self) -> Infallible {
        loop {
            let due = self.shared.state().allocator.poll_forget();
            let Some(due) = due else {
                self.shared.used.notified().await;
                continue;
            };
            sleep(due.since(self.clock.now())).await;
            let freed = self.shared.state().allocator.forget(self.clock.now());
            if freed {
                memory::trim();
            }
        }
    }
}
