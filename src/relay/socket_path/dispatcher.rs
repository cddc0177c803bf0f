//! Dispatch of allocation requests. The dispatcher opens each request outside of the worker threads,
//! so that no datagram waits for its cryptography, and passes it on to the thread that has the pair.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
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
    /// Nodes with a request that a thread may not have carried out yet, and the mark of that request.
    pending: Vec<(NodeKey, Weak<()>)>,
}

impl State {
    fn update_accepting(&mut self) {
        let accepting = self.accepting && !self.draining && !self.withdrawn;
        self.allocator.set_accepting(accepting);
    }

    /// Remembers a request until its mark is dropped.
    fn add_pending(&mut self, node: NodeKey) -> Arc<()> {
        self.pending.retain(|(_, mark)| mark.strong_count() > 0);
        let mark = Arc::new(());
        self.pending.push((node, Arc::downgrade(&mark)));
        mark
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
            pending: Vec::new(),
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
        sender: impl FnOnce() -> Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        let (request, allocation) = self.open(sender, &packet)?;
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

    /// Opens a request and sends it to its thread. The allocator stays locked from the look-up of the
    /// sender until the thread has the request, so that [`Dispatcher::pending`] has all senders of
    /// requests that were judged by an earlier policy.
    fn open(
        &self,
        sender: impl FnOnce() -> Option<Peer>,
        packet: &[u8],
    ) -> Result<(Request, PendingAllocation), DropReason> {
        let state = &mut *self.shared.state();
        self.shared.used.notify_one();
        let peer = sender();
        let opened = state
            .allocator
            .open(peer.as_ref(), packet, self.clock.now());
        let request = opened.inspect_err(|reason| state.counters.count_drop(*reason))?;
        let (answer, allocation) = oneshot::channel();
        let thread = Workers::thread(request.shard(), self.workers.len());
        let command = DispatcherCommand::Allocate {
            mark: state.add_pending(request.owner()),
            request,
            answer,
        };
        self.workers[thread].send(command);
        Ok((request, allocation))
    }

    /// Nodes with requests that may become sessions after this call.
    pub(super) fn pending(&self) -> Vec<NodeKey> {
        let state = &mut *self.shared.state();
        state.pending.retain(|(_, mark)| mark.strong_count() > 0);
        state.pending.iter().map(|(node, _)| *node).collect()
    }

    /// Ends the sessions of these nodes, also those that requests on their way will open.
    pub(super) fn revoke(&self, nodes: BTreeSet<NodeKey>) {
        let nodes = Arc::new(nodes);
        for worker in &*self.workers {
            worker.send(DispatcherCommand::Revoke(nodes.clone()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use relay_proto::{DiscoSecret, client::Client};

    use super::*;
    use crate::relay::socket_path::fixture;

    #[test]
    fn a_sender_is_pending_until_the_thread_has_carried_its_request_out() {
        let (worker, inbox) = WorkerHandle::new().unwrap();
        let options = fixture::options(0, 1);
        let workers = Arc::new([worker]);
        let clock = Clock::start();
        let dispatcher = Dispatcher::new(&options.config, &options.keys, workers, clock);
        dispatcher.set_addresses(&["192.0.2.1:40000".parse().unwrap()]);
        let relay = DiscoSecret::from_bytes([1; 32]).public();
        let [a, b] = [1, 2].map(Client::numbered);
        let request = a.channel(relay).request([9; 24], [a.key, b.key], 1);
        let opened = dispatcher.open(|| Some(a.peer()), &request).unwrap();
        // The task that asked may be gone.
        drop(opened);
        assert_eq!(dispatcher.pending(), [a.node_key]);
        dispatcher.revoke([a.node_key].into());
        assert_eq!(dispatcher.pending(), [a.node_key]);
        // The addresses, the request, and the revocation after it.
        let commands: Vec<_> = inbox.commands.try_iter().collect();
        assert_eq!(commands.len(), 3);
        drop(commands);
        assert!(dispatcher.pending().is_empty());
    }
}
