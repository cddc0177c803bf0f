//! What the cores of one relay share: the order of allocations, and who has how many sessions.
//!
//! It is asked when a session is made or ends, never for a packet.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{config::Config, key::NodeKey, verdict::DropReason};

/// Shared by every core of a relay; limits hold over all of them.
#[derive(Debug)]
pub struct Ledger {
    next_lamport: AtomicU64,
    max_sessions: usize,
    max_sessions_per_node: usize,
    uses: Mutex<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    total: usize,
    nodes: BTreeMap<NodeKey, usize>,
}

impl Ledger {
    /// An empty ledger with the limits of `config`. `first_lamport` must be greater than any
    /// LamportID that the relay's server key has given out before.
    pub fn new(config: &Config, first_lamport: u64) -> Self {
        Self {
            next_lamport: AtomicU64::new(first_lamport),
            max_sessions: config.max_sessions.min(Config::MOST_SESSIONS),
            max_sessions_per_node: config.max_sessions_per_node,
            uses: Mutex::default(),
        }
    }

    /// The LamportID that the next allocation gets.
    pub fn next_lamport(&self) -> u64 {
        self.next_lamport.load(Ordering::Relaxed)
    }

    pub(crate) fn take_lamport(&self) -> u64 {
        self.next_lamport.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts one more session of `owner`, if the limits allow it.
    pub(crate) fn enter(&self, owner: NodeKey) -> Result<(), DropReason> {
        let mut uses = self.uses();
        let of_node = uses.nodes.get(&owner).copied().unwrap_or(0);
        if of_node >= self.max_sessions_per_node {
            return Err(DropReason::NodeLimit);
        }
        if uses.total >= self.max_sessions {
            return Err(DropReason::SessionLimit);
        }
        uses.total += 1;
        uses.nodes.insert(owner, of_node + 1);
        Ok(())
    }

    /// Takes back what [`Ledger::enter`] counted.
    pub(crate) fn leave(&self, owner: NodeKey) {
        let mut uses = self.uses();
        uses.total -= 1;
        if let Some(of_node) = uses.nodes.get_mut(&owner) {
            *of_node -= 1;
            if *of_node == 0 {
                uses.nodes.remove(&owner);
            }
        }
    }

    fn uses(&self) -> std::sync::MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
