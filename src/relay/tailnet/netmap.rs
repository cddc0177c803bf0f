//! The network map: the peers of the tailnet, and those that may use this relay.
//!
//! Who may relay is judged when somebody asks, as in Go's relay. A message therefore costs what it
//! changes, and not what the map holds.

mod changes;
mod clients;
mod clock;
mod filter;
mod grants;
mod shared;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey};

use crate::relay::sessions::Name;

pub(crate) use self::{
    changes::{Changes, Judged},
    shared::SharedNetmap,
};
use self::{
    clock::ControlClock,
    filter::{Filters, OwnFilter},
};
use super::{
    peers::{Expiry, MOST_PEERS, Peer, Peers},
    wire::{DerpMap, MapResponse, Node, PeerChanges, TailnetLock, UserProfile},
};

/// Node attribute that turns a relay off (`tailcfg.NodeAttrDisableRelayServer`).
const ATTR_DISABLED: &str = "disable-relay-server";

/// State of the tailnet, as the map stream has reported it so far. Copies share the peers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Netmap {
    own: Option<Arc<Node>>,
    peers: Arc<Peers>,
    /// Login names of users.
    logins: Arc<HashMap<i64, Box<str>>>,
    filters: Filters,
    filter: Arc<OwnFilter>,
    derp: Arc<DerpMap>,
    clock: ControlClock,
    /// The control server's time at which keys of peers were last looked at. The peers' first expiry leaves
    /// out keys that had expired by then, and that are valid again if the clock is set back.
    looked_at: Option<Timestamp>,
    /// Tailnet Lock is enabled.
    locked: bool,
    /// A map stream has begun and has sent no map yet: the map of the stream before holds.
    awaits_first: bool,
}

/// The first network map of a stream is without this device: nothing can be judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first network map of a stream is without this device")]
pub(crate) struct DeviceMissing;

impl Netmap {
    /// Begins a map stream. Its first map replaces everything that earlier streams have said: what
    /// that map leaves out is not there.
    pub(crate) const fn begin_stream(&mut self) {
        self.awaits_first = true;
    }

    /// Takes in one message of the stream, as [`SharedNetmap::apply`] does.
    #[cfg(test)]
    pub(crate) fn apply(
        &mut self,
        mut message: MapResponse,
        now: Timestamp,
    ) -> Result<Changes, DeviceMissing> {
        let peers = message.take_peer_changes();
        let mut changes = self.apply_all_but_peers(message, now)?;
        self.apply_peers(peers, now, &mut changes);
        Ok(changes)
    }

    /// Takes in one message of the stream as `controlclient` does, except for its peers. Returns what it
    /// changes. `now` is this host's time.
    ///
    /// # Errors
    /// The first map of a stream lacks this device; then what was known holds.
    fn apply_all_but_peers(
        &mut self,
        message: MapResponse,
        now: Timestamp,
    ) -> Result<Changes, DeviceMissing> {
        let mut changes = Changes::default();
        let control = message.control_time;
        changes.expiry = control.is_some_and(|control| self.clock.record(control, now));
        if message.keep_alive {
            return Ok(changes);
        }
        changes.is_map = true;
        if self.awaits_first {
            if message.node.is_none() {
                return Err(DeviceMissing);
            }
            // No right depends on the DERP map.
            *self = Self {
                derp: self.derp.clone(),
                clock: self.clock,
                ..Self::default()
            };
            changes.add_all();
        }
        let has_own = message.node.is_some();
        self.apply_device(message.node, message.tailnet_lock, &mut changes);
        // Without regions it only changes parameters that are of no use here.
        if let Some(derp) = message.derp_map.filter(|derp| !derp.regions.is_empty()) {
            self.derp = Arc::new(derp);
            changes.derp = true;
        }
        let (base, named) = (message.packet_filter, message.packet_filters);
        // The addresses of this device decide which rules concern it.
        if self.filters.apply(base, named) || has_own {
            let own = self.own.iter().flat_map(|own| own.ips());
            self.filter = Arc::new(self.filters.compile(own));
            changes.judged = Judged::All;
            changes.counts = true;
        }
        self.apply_users(message.user_profiles, &mut changes);
        Ok(changes)
    }

    fn apply_device(
        &mut self,
        own: Option<Node>,
        lock: Option<TailnetLock>,
        changes: &mut Changes,
    ) {
        if let Some(own) = own {
            self.own = Some(Arc::new(own));
            (changes.device, changes.expiry) = (true, true);
        }
        let locked = lock.map_or(self.locked, |lock| !lock.disabled);
        if locked != self.locked {
            self.locked = locked;
            changes.judged = Judged::All;
            (changes.device, changes.counts) = (true, true);
        }
    }

    fn apply_users(&mut self, users: Vec<UserProfile>, changes: &mut Changes) {
        if users.is_empty() {
            return;
        }
        let logins = Arc::make_mut(&mut self.logins);
        for user in users {
            if logins.len() < MOST_PEERS || logins.contains_key(&user.id) {
                logins.insert(user.id, user.login_name.into());
            }
        }
        changes.counts = true;
    }

    /// Takes in the peers of the same message, after all else.
    fn apply_peers(&mut self, peers: PeerChanges, now: Timestamp, changes: &mut Changes) {
        let PeerChanges {
            all,
            changed,
            removed,
            patches,
        } = peers;
        // A list of all peers excludes changes of some, and an empty one is none.
        if all.len() > 0 {
            changes.refused = all.refused();
            self.peers = Arc::new(all);
            changes.add_all();
            return;
        }
        if removed.is_empty() && changed.is_empty() && patches.is_empty() {
            return;
        }
        let now = self.clock.now(now);
        self.looked_at = self.looked_at.max(now);
        let peers = Arc::make_mut(&mut self.peers);
        let refused = peers.refused();
        for id in removed {
            if let Some(peer) = peers.remove(id) {
                changes.add_peer(Some(&peer), None);
            }
        }
        for peer in changed {
            insert(peers, peer, now, changes);
        }
        for patch in patches {
            if let Some(mut peer) = peers.by_id(patch.node_id).cloned() {
                peer.apply(&patch);
                insert(peers, peer, now, changes);
            }
        }
        changes.refused = peers.refused() - refused;
    }

    /// Returns whether a peer may use this relay now. `now` is this host's time.
    pub(crate) fn may_use(&self, key: NodeKey, now: Timestamp) -> bool {
        let peer = self.peers.by_key(key);
        !self.relay_disabled() && peer.is_some_and(|peer| self.may_relay(peer, self.clock.now(now)))
    }

    /// Time before which no node key expires, this device's or a peer's; `None` if none expires. It is
    /// zero if [`Netmap::expiry_after`] has to look for a later one. `now` is this host's time.
    pub(crate) fn next_expiry(&mut self, now: Timestamp) -> Option<Duration> {
        let Some(now) = self.clock.now(now) else {
            // Until the time is known, all keys are valid; then those that are left out expire again.
            self.looked_at = Some(Timestamp::MAX);
            return None;
        };
        if self.looked_at.is_some_and(|looked_at| now < looked_at) {
            return Some(Duration::ZERO);
        }
        let own = self.own.iter().filter(|own| !own.expired);
        let own = own
            .filter_map(|own| own.key_expiry)
            .filter(|expiry| *expiry > now);
        let next = own.chain(self.peers.first_expiry().time()).min()?;
        Some(next.duration_since(now).try_into().unwrap_or_default())
    }

    /// Finds the first expiry of a peer's key after `now`, this host's time; `None` if the time cannot be
    /// right. It looks at all peers.
    pub(crate) fn expiry_after(&self, now: Timestamp) -> Option<Expiry> {
        Some(self.peers.expiry_after(self.clock.now(now)?))
    }

    /// Sets the expiry that [`Netmap::expiry_after`] has found at this time.
    pub(crate) fn set_first_expiry(&mut self, expiry: Expiry, now: Timestamp) {
        self.looked_at = self.clock.now(now);
        Arc::make_mut(&mut self.peers).set_first_expiry(expiry);
    }

    /// This device as control has it.
    pub(crate) fn own(&self) -> Option<&Arc<Node>> {
        self.own.as_ref()
    }

    /// Returns whether this device's node key has expired. `now` is this host's time.
    pub(crate) fn own_expired(&self, now: Timestamp) -> bool {
        let now = self.clock.now(now);
        self.own.as_ref().is_some_and(|own| own.has_expired(now))
    }

    /// Returns whether Tailnet Lock is enabled and control has no signature of this device's node key.
    /// Clients then remove the device from their network maps. A signature that control has is not
    /// verified here: that would need the chain of trusted keys, which only clients keep.
    pub(crate) fn own_unsigned(&self) -> bool {
        let own = self.own.as_ref();
        self.locked && own.is_some_and(|own| !own.is_signed)
    }

    /// DERP regions of the tailnet.
    pub(crate) const fn derp(&self) -> &Arc<DerpMap> {
        &self.derp
    }

    /// Returns whether the policy has turned this relay off.
    pub(crate) fn relay_disabled(&self) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.has_attribute(ATTR_DISABLED))
    }

    /// The sender of a DERP packet, as the core needs it, and its home region. `now` is this host's
    /// time.
    pub(crate) fn peer(
        &self,
        key: NodeKey,
        now: Timestamp,
    ) -> Option<(relay_proto::Peer, Option<u32>)> {
        let peer = self.peers.by_key(key)?;
        let of_core = relay_proto::Peer {
            node_key: key,
            disco: peer.disco,
            may_relay: self.may_relay(peer, self.clock.now(now)),
            unsigned_peer_api_only: peer.unsigned_peer_api_only,
        };
        Some((of_core, peer.home_region()))
    }

    /// Names of the clients with these disco keys. It looks at all peers.
    pub(crate) fn names(&self, wanted: &HashSet<DiscoPublic>) -> HashMap<DiscoPublic, Name> {
        let peers = self.peers.iter();
        let peers = peers.map(|peer| (peer.disco, &*peer.name, peer.tags()));
        let own = self.own.iter();
        let own = own.map(|own| (own.disco_key, own.name.trim_end_matches('.'), &own.tags[..]));
        let named = peers.chain(own).filter_map(|(disco, node, tags)| {
            let disco = disco.filter(|disco| wanted.contains(disco))?;
            let (node, tags) = (node.to_owned(), tags.to_vec());
            Some((disco, Name { node, tags }))
        });
        named.collect()
    }

    /// Returns whether a peer may use this relay. `now` is control's time.
    fn may_relay(&self, peer: &Peer, now: Option<Timestamp>) -> bool {
        // tailscaled removes such devices from its network map.
        let is_locked_out = self.locked && !peer.is_signed;
        let is_out = peer.unsigned_peer_api_only || is_locked_out || peer.has_expired(now);
        !is_out && self.own.is_some() && self.filter.grants(peer.ips.first())
    }
}

/// Enters a peer, and adds to `changes` what that changes. `now` is control's time.
fn insert(peers: &mut Peers, peer: Peer, now: Option<Timestamp>, changes: &mut Changes) {
    let (id, key) = (peer.id, peer.key);
    // Of two peers with one key, the last counts.
    let holder = key.and_then(|key| peers.by_key(key)).map(|peer| peer.id);
    let previous = peers.insert(peer, now);
    if holder.is_some_and(|holder| holder != id) {
        changes.judged.add(key);
    }
    changes.add_peer(previous.as_ref(), peers.by_id(id));
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
