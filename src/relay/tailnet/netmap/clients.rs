//! Peers as the configured `clients` name them.

use k8s_openapi::jiff::Timestamp;
use relay_proto::NodeKey;

use super::Netmap;
use crate::{
    grants::Device,
    relay::{
        clients::{ClientView, Clients},
        tailnet::peers::Peer,
    },
};

impl Netmap {
    /// The peers that each entry names, and those of them that may use this relay. `now` is this
    /// host's time.
    pub(crate) fn clients(&self, clients: &Clients, now: Timestamp) -> Vec<ClientView> {
        let now = self.clock.now(now);
        let devices = self.peers.iter();
        let devices = devices.map(|peer| (self.device(peer), self.may_relay(peer, now)));
        clients.views(devices)
    }

    /// Records that a peer asked for a session and got it. Returns whether the state is to be
    /// reported anew.
    pub(crate) fn record_request(&self, key: NodeKey, clients: &Clients, now: Timestamp) -> bool {
        let peer = self.peers.by_key(key);
        peer.is_some_and(|peer| clients.record_request(&self.device(peer), now))
    }

    /// Peers that have one of `tags` and say that they are no relays.
    pub(crate) fn tagged_others(&self, tags: &[String]) -> usize {
        let is_other = |peer: &&Peer| {
            peer.is_relay == Some(false) && peer.tags().iter().any(|tag| tags.contains(tag))
        };
        self.peers.iter().filter(is_other).count()
    }

    fn device<'a>(&'a self, peer: &'a Peer) -> Device<'a> {
        Device {
            tags: peer.tags(),
            login: self.logins.get(&peer.user).map(|login| &**login),
            addresses: peer.ips.iter().collect(),
        }
    }
}
