//! Peers as the configured `clients` name them.

use k8s_openapi::jiff::Timestamp;
use relay_proto::NodeKey;

use super::{Netmap, Node};
use crate::{
    grants::Device,
    relay::clients::{ClientView, Clients},
};

impl Netmap {
    /// The peers that each entry names, and those of them that may use this relay. `now` is this
    /// host's time.
    pub(crate) fn clients(&self, clients: &Clients, now: Timestamp) -> Vec<ClientView> {
        if clients.is_empty() {
            return Vec::new();
        }
        let now = self.clock.now(now);
        let peers = self.peers.values();
        let devices = peers.map(|peer| (self.device(peer), self.may_relay(peer, now)));
        clients.views(&devices.collect::<Vec<_>>())
    }

    /// Records that a peer asked for a session and got it. Returns whether the state is to be
    /// reported anew.
    pub(crate) fn record_request(&self, key: NodeKey, clients: &Clients, now: Timestamp) -> bool {
        let peer = self.ids.get(&key).and_then(|id| self.peers.get(id));
        peer.is_some_and(|peer| clients.record_request(&self.device(peer), now))
    }

    /// Peers that have one of `tags` and say that they are no relays.
    pub(crate) fn tagged_others(&self, tags: &[String]) -> usize {
        let is_other = |peer: &&Node| {
            let is_relay = peer.hostinfo.as_ref().is_none_or(|info| info.peer_relay);
            !is_relay && peer.tags.iter().any(|tag| tags.contains(tag))
        };
        self.peers.values().filter(is_other).count()
    }

    fn device<'a>(&'a self, peer: &'a Node) -> Device<'a> {
        Device {
            tags: &peer.tags,
            login: self.logins.get(&peer.user).map(String::as_str),
            addresses: peer.ips().collect(),
        }
    }
}
