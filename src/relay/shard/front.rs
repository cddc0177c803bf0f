//! What stands before the threads: opens allocation requests, so that their cryptography costs no
//! datagram its time, and passes each on to the thread that has the pair.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use relay_proto::{Allocation, Config, Counters, Desk, DropReason, Keys, Peer, Request};
use tokio::sync::oneshot;

use super::{
    Command, Snapshot,
    lanes::{Lanes, Link},
};

pub(super) struct Front {
    desk: Mutex<State>,
    links: Arc<[Link]>,
}

struct State {
    desk: Desk,
    counters: Counters,
    accepting: bool,
    draining: bool,
}

impl Front {
    pub(super) fn new(config: &Config, keys: &Keys, links: Arc<[Link]>) -> Self {
        Self {
            desk: Mutex::new(State {
                desk: Desk::new(config, keys),
                counters: Counters::default(),
                accepting: true,
                draining: false,
            }),
            links,
        }
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    pub(super) async fn handle_derp(
        &self,
        from: Option<Peer>,
        packet: Vec<u8>,
    ) -> Result<Vec<u8>, DropReason> {
        let request = self.open(from.as_ref(), &packet)?;
        let allocation = self.allocate(request).await?;
        let nonce = rand::random();
        Ok(self.state().desk.answer(&request, allocation, nonce))
    }

    fn open(&self, from: Option<&Peer>, packet: &[u8]) -> Result<Request, DropReason> {
        let State { desk, counters, .. } = &mut *self.state();
        let opened = desk.open(from, packet);
        opened.inspect_err(|reason| counters.count_drop(*reason))
    }

    async fn allocate(&self, request: Request) -> Result<Allocation, DropReason> {
        let (answer, result) = oneshot::channel();
        let thread = Lanes::thread(request.lane(), self.links.len());
        self.links[thread].tell(Command::Allocate { request, answer });
        result.await.unwrap_or(Err(DropReason::NotAccepting))
    }

    pub(super) fn set_addresses(&self, addresses: &[SocketAddr]) {
        self.state().desk.set_addresses(addresses.to_vec());
        for link in &*self.links {
            link.tell(Command::SetAddresses(addresses.to_vec()));
        }
    }

    pub(super) fn set_accepting(&self, accepting: bool) {
        let state = &mut *self.state();
        state.accepting = accepting;
        state.desk.set_accepting(state.accepting && !state.draining);
    }

    pub(super) fn drain(&self) {
        let state = &mut *self.state();
        state.draining = true;
        state.desk.set_accepting(false);
    }

    /// What never reached a thread.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            counters: self.state().counters.clone(),
            ..Snapshot::default()
        }
    }

    pub(super) fn stop(&self) {
        for link in &*self.links {
            link.tell(Command::Stop);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Front {
    /// The threads hold ways to each other, so nobody else would end them.
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}
