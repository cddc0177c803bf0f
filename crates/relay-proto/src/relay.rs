//! A relay on one thread: an allocator and a core.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use crate::{
    allocator::Allocator,
    config::{Config, Keys, Peer},
    core::Core,
    limits::SharedLimits,
    session::address::canonical,
    shared_path::{SharedTat, SharedVnis},
    time::Timestamp,
    verdict::DropReason,
};

/// A relay on one thread, for small drivers and for tests.
///
/// It is its [`Core`] with an [`Allocator`] before it, and dereferences to the core. A driver with
/// several threads uses both on their own, as the crate's documentation describes.
#[derive(Debug)]
pub struct Relay<P = ()> {
    allocator: Allocator,
    core: Core<P>,
}

impl Relay {
    /// A relay without sessions.
    ///
    /// `seed` must be secret and is never used twice; `first_lamport` must be greater than any
    /// LamportID that the server key of `keys` has given out before.
    pub fn new(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        first_lamport: u64,
        now: Timestamp,
    ) -> Self {
        let limits = Arc::new(SharedLimits::new(&config, first_lamport));
        Self::with_limits(config, keys, seed, limits, now)
    }
}

impl<P: SharedTat + SharedVnis> Relay<P> {
    /// As [`Relay::new`], with limits that the caller keeps, or that another data path shares.
    pub fn with_limits(
        config: Config,
        keys: Keys,
        seed: [u8; 32],
        limits: Arc<SharedLimits<P>>,
        now: Timestamp,
    ) -> Self {
        Self {
            allocator: Allocator::new(&config, &keys),
            core: Core::new(config, keys, seed, limits, now),
        }
    }

    /// Replaces the addresses that allocations advertise, in order of preference. A datagram that
    /// claims to come from one of them never binds.
    pub fn set_addresses(&mut self, advertised: Vec<SocketAddr>) {
        self.core.set_addresses(&advertised);
        let advertised = advertised.into_iter().map(canonical);
        self.allocator.set_addresses(advertised.collect());
    }

    /// Sets whether allocation requests are answered. Existing sessions go on either way.
    pub const fn set_accepting(&mut self, accepting: bool) {
        self.allocator.set_accepting(accepting);
    }

    /// Handles a packet that DERP delivered; `from` is the network map's entry of its sender.
    ///
    /// # Errors
    /// The reason why the packet gets no answer; it is counted.
    pub fn handle_derp(
        &mut self,
        from: Option<&Peer>,
        packet: &[u8],
        now: Timestamp,
    ) -> Result<Vec<u8>, DropReason> {
        let opened = self.allocator.open(from, packet, now);
        let request = opened.inspect_err(|reason| self.core.counters_mut().count_drop(*reason))?;
        let allocation = self.core.allocate(&request)?;
        let nonce = self.core.nonce();
        Ok(self.allocator.answer(&request, allocation, nonce))
    }

    /// As [`Core::poll_forget`], for the allocator too.
    #[must_use]
    pub fn poll_forget(&self) -> Option<Timestamp> {
        let due = [self.core.poll_forget(), self.allocator.poll_forget()];
        due.into_iter().flatten().min()
    }

    /// As [`Core::forget`], for the allocator too.
    pub fn forget(&mut self, now: Timestamp) -> bool {
        // A short-circuiting `||` would leave out the allocator.
        self.core.forget(now) | self.allocator.forget(now)
    }
}

impl<P> Deref for Relay<P> {
    type Target = Core<P>;

    fn deref(&self) -> &Core<P> {
        &self.core
    }
}

impl<P> DerefMut for Relay<P> {
    fn deref_mut(&mut self) -> &mut Core<P> {
        &mut self.core
    }
}
