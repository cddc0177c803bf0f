//! The network map between the task that follows the map stream and those that look into it.

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey, Peer};

use super::{Changes, DeviceMissing, Netmap};
use crate::relay::{clients::Clients, sessions::Name, tailnet::wire::MapResponse};

/// Most peers that a message may change while look-ups wait. One takes less than a microsecond.
const MOST_CHANGED_IN_PLACE: usize = 128;

/// The network map; clones share it.
///
/// One task writes. It prepares large changes in a copy, so that it holds the lock against look-ups only
/// to swap the copy in, or to change a few peers. It may therefore also read for as long as it wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedNetmap(Arc<RwLock<Netmap>>);

impl SharedNetmap {
    /// Calls [`Netmap::begin_stream`]. It is for the task that writes.
    pub(crate) fn begin_stream(&self) {
        self.write().begin_stream();
    }

    /// Takes in one message of the stream as `controlclient` does. Returns what it changes. `now` is this
    /// host's time. It is for the task that writes.
    ///
    /// # Errors
    /// The first map of a stream lacks this device; then what was known holds.
    pub(crate) fn apply(
        &self,
        message: MapResponse,
        now: Timestamp,
    ) -> Result<Changes, DeviceMissing> {
        self.apply_in_place(message, now, MOST_CHANGED_IN_PLACE)
    }

    /// Applies a message; `most` peers at most are changed in place.
    pub(super) fn apply_in_place(
        &self,
        mut message: MapResponse,
        now: Timestamp,
        most: usize,
    ) -> Result<Changes, DeviceMissing> {
        let peers = message.take_peer_changes();
        let are_few = peers.len() <= most;
        if are_few && message.is_small() {
            let map = &mut *self.write();
            let mut changes = map.apply_all_but_peers(message, now)?;
            map.apply_peers(peers, now, &mut changes);
            return Ok(changes);
        }
        let mut next = self.read().clone();
        let applied = next.apply_all_but_peers(message, now);
        let mut changes = applied.inspect_err(|_| self.write().clock = next.clock)?;
        if !are_few {
            next.apply_peers(peers, now, &mut changes);
            let previous = mem::replace(&mut *self.write(), next);
            // After the lock is released: it may be all peers.
            drop(previous);
            return Ok(changes);
        }
        let mut map = self.write();
        let mut previous = mem::replace(&mut *map, next);
        if Arc::ptr_eq(&previous.peers, &map.peers) {
            // So that the map is their only owner, and changes them in place.
            previous.peers = Arc::default();
        }
        map.apply_peers(peers, now, &mut changes);
        drop(map);
        drop(previous);
        Ok(changes)
    }

    /// Returns the result of [`Netmap::next_expiry`]. It is for the task that writes.
    pub(crate) fn next_expiry(&self, now: Timestamp) -> Option<Duration> {
        self.write().next_expiry(now)
    }

    /// Looks for the expiry that comes next, after the previous one has passed; for the task that writes.
    pub(crate) fn find_next_expiry(&self, now: Timestamp) {
        let next = self.read().expiry_after(now);
        if let Some(next) = next {
            self.write().set_first_expiry(next, now);
        }
    }

    /// The map, for the task that writes. Nobody else may hold it for long.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Netmap> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the result of [`Netmap::peer`].
    pub(crate) fn peer(&self, key: NodeKey, now: Timestamp) -> Option<(Peer, Option<u32>)> {
        self.read().peer(key, now)
    }

    /// Calls [`Netmap::record_request`].
    pub(crate) fn record_request(&self, key: NodeKey, clients: &Clients, now: Timestamp) {
        self.read().record_request(key, clients, now);
    }

    /// Returns the result of [`Netmap::names`].
    pub(crate) fn names(&self, wanted: &HashSet<DiscoPublic>) -> HashMap<DiscoPublic, Name> {
        self.read().names(wanted)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Netmap> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
