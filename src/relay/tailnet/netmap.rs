//! The network map: the peers of the tailnet, and those that may use this relay.

mod clients;
mod clock;
mod filter;
mod grants;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey, Peer};

use crate::relay::sessions::Name;

use self::{clock::ControlClock, filter::Filters};
use super::wire::{DerpMap, MapResponse, Node, PeerChange};

/// Node attribute that turns a relay off (`tailcfg.NodeAttrDisableRelayServer`).
const ATTR_DISABLED: &str = "disable-relay-server";

/// State of the tailnet, as the map stream has reported it so far.
#[derive(Debug, Default)]
pub(crate) struct Netmap {
    own: Option<Node>,
    peers: HashMap<i64, Node>,
    ids: HashMap<NodeKey, i64>,
    /// Login names of users.
    logins: HashMap<i64, String>,
    filters: Filters,
    derp: Arc<DerpMap>,
    clock: ControlClock,
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

    /// Takes in one message of the stream as `controlclient` does. Returns whether it is a map, and
    /// not a keep-alive.
    ///
    /// # Errors
    /// The first map of a stream lacks this device; then what was known holds.
    pub(crate) fn apply(
        &mut self,
        message: MapResponse,
        now: Timestamp,
    ) -> Result<bool, DeviceMissing> {
        if let Some(control) = message.control_time {
            self.clock.record(control, now);
        }
        if message.keep_alive {
            return Ok(false);
        }
        if self.awaits_first {
            if message.node.is_none() {
                return Err(DeviceMissing);
            }
            // No right depends on the DERP map or the clock.
            *self = Self {
                derp: self.derp.clone(),
                clock: self.clock,
                ..Self::default()
            };
        }
        if let Some(own) = message.node {
            self.own = Some(own);
        }
        // Without regions it only changes parameters that are of no use here.
        if let Some(derp) = message.derp_map.filter(|derp| !derp.regions.is_empty()) {
            self.derp = Arc::new(derp);
        }
        if let Some(lock) = message.tailnet_lock {
            self.locked = !lock.disabled;
        }
        self.filters
            .apply(message.packet_filter.as_deref(), message.packet_filters);
        let profiles = message.user_profiles.into_iter();
        self.logins
            .extend(profiles.map(|user| (user.id, user.login_name)));
        // A list of all peers excludes changes of some, and an empty one is none.
        if message.peers.is_empty() {
            let removed = message.peers_removed.into_iter();
            removed.for_each(|id| self.remove(id));
            let changed = message.peers_changed.into_iter();
            changed.for_each(|peer| self.insert(peer));
            let patches = message.peers_changed_patch.into_iter();
            patches.for_each(|change| self.patch(change));
        } else {
            self.peers.clear();
            self.ids.clear();
            let peers = message.peers.into_iter();
            peers.for_each(|peer| self.insert(peer));
        }
        Ok(true)
    }

    /// Node keys of the peers that may use this relay; `None` before the first network map. `now` is
    /// this host's time.
    pub(crate) fn allowed(&self, now: Timestamp) -> Option<BTreeSet<NodeKey>> {
        self.own.as_ref()?;
        if self.relay_disabled() {
            return Some(BTreeSet::new());
        }
        let now = self.clock.now(now);
        let may = |id: &i64| {
            let peer = self.peers.get(id);
            peer.is_some_and(|peer| self.may_relay(peer, now))
        };
        let ids = self.ids.iter();
        Some(ids.filter(|(_, id)| may(id)).map(|(key, _)| *key).collect())
    }

    /// Time until the next node key expires, this device's or a peer's. `now` is this host's time.
    pub(crate) fn next_expiry(&self, now: Timestamp) -> Option<Duration> {
        let now = self.clock.now(now)?;
        let nodes = self.peers.values().chain(&self.own);
        let expiries = nodes.filter(|node| !node.expired);
        let expiries = expiries.filter_map(|node| node.key_expiry);
        let next = expiries.filter(|expiry| *expiry > now).min()?;
        next.duration_since(now).try_into().ok()
    }

    /// This device as control has it.
    pub(crate) const fn own(&self) -> Option<&Node> {
        self.own.as_ref()
    }

    /// Returns whether this device's node key has expired. `now` is this host's time.
    pub(crate) fn own_expired(&self, now: Timestamp) -> bool {
        let now = self.clock.now(now);
        self.own.as_ref().is_some_and(|own| has_expired(own, now))
    }

    /// Returns whether Tailnet Lock is enabled and control has no signature of this device's node key.
    /// Clients then remove the device from their network maps. A signature that control has is not
    /// verified here: that would need the chain of trusted keys, which only clients keep.
    pub(crate) fn own_unsigned(&self) -> bool {
        let own = self.own.as_ref();
        self.locked && own.is_some_and(|own| !own.is_signed)
    }

    /// DERP regions of the tailnet.
    pub(crate) fn derp(&self) -> &Arc<DerpMap> {
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
    pub(crate) fn peer(&self, key: NodeKey, now: Timestamp) -> Option<(Peer, Option<u32>)> {
        let node = self.peers.get(self.ids.get(&key)?)?;
        let peer = Peer {
            node_key: key,
            disco: node.disco_key,
            may_relay: self.may_relay(node, self.clock.now(now)),
            unsigned_peer_api_only: node.unsigned_peer_api_only,
        };
        Some((peer, node.home_region()))
    }

    /// The tags of peers that have some, each tag by a number that holds for this answer.
    pub(crate) fn tags(&self) -> BTreeMap<NodeKey, Vec<u32>> {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut all = BTreeMap::new();
        for peer in self.peers.values().filter(|peer| !peer.tags.is_empty()) {
            let Some(key) = peer.key else { continue };
            let tags: BTreeSet<_> = peer.tags.iter().map(String::as_str).collect();
            let number = |tag| {
                let next = numbers.len() as u32;
                *numbers.entry(tag).or_insert(next)
            };
            all.insert(key, tags.into_iter().map(number).collect());
        }
        all
    }

    /// Names of clients, by disco key.
    pub(crate) fn names(&self) -> HashMap<DiscoPublic, Name> {
        let nodes = self.peers.values().chain(&self.own);
        let named = nodes.filter_map(|node| {
            let name = Name {
                node: node.name.trim_end_matches('.').to_owned(),
                tags: node.tags.clone(),
            };
            Some((node.disco_key?, name))
        });
        named.collect()
    }

    /// Returns whether a peer may use this relay. It judges the first pair of addresses of the same
    /// family, as Go's relay does (`magicsock.nodeHasCap`). `now` is control's time.
    fn may_relay(&self, peer: &Node, now: Option<Timestamp>) -> bool {
        let Some(own) = &self.own else { return false };
        // tailscaled removes such devices from its network map.
        let is_locked_out = self.locked && !peer.is_signed;
        if peer.unsigned_peer_api_only || is_locked_out || has_expired(peer, now) {
            return false;
        }
        let pair = peer.ips().find_map(|source| {
            let mut own = own.ips();
            let own = own.find(|own| own.is_ipv4() == source.is_ipv4())?;
            Some((source, own))
        });
        pair.is_some_and(|(source, own)| self.filters.grants(source, own))
    }

    fn insert(&mut self, peer: Node) {
        self.remove(peer.id);
        if let Some(key) = peer.key {
            self.ids.insert(key, peer.id);
        }
        self.peers.insert(peer.id, peer);
    }

    fn remove(&mut self, id: i64) {
        let Some(key) = self.peers.remove(&id).and_then(|peer| peer.key) else {
            return;
        };
        if self.ids.get(&key) == Some(&id) {
            self.ids.remove(&key);
        }
    }

    fn patch(&mut self, change: PeerChange) {
        let Some(mut peer) = self.peers.get(&change.node_id).cloned() else {
            return;
        };
        if change.derp_region != 0 {
            peer.home_derp = change.derp_region;
        }
        // A signature is of one key.
        peer.is_signed = change.is_signed || peer.is_signed && change.key.is_none();
        peer.key = change.key.or(peer.key);
        peer.disco_key = change.disco_key.or(peer.disco_key);
        peer.key_expiry = change.key_expiry.unwrap_or(peer.key_expiry);
        self.insert(peer);
    }
}

/// Returns whether the node key of `node` has expired, by control or by the time. `now` is
/// control's time.
fn has_expired(node: &Node, now: Option<Timestamp>) -> bool {
    let is_over = |expiry| now.is_some_and(|now| expiry <= now);
    node.expired || node.key_expiry.is_some_and(is_over)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
