//! Peers by right and by tag.

use k8s_openapi::jiff::Timestamp;
use relay_proto::NodeKey;

use super::Netmap;
use crate::relay::{grant::GrantView, tailnet::peers::Peer};

impl Netmap {
    /// Counts the peers that may use this relay, and the rules that say so. It looks at all peers. `now`
    /// is this host's time.
    pub(crate) fn grant(&self, now: Timestamp) -> GrantView {
        let now = self.clock.now(now);
        let mut view = GrantView {
            rules: self.filter.rules,
            known_peers: self.peers.len(),
            everyone: self.filter.everyone,
            ..GrantView::default()
        };
        let peers = self.peers.iter();
        let granted = peers.filter(|peer| self.may_relay(peer, now));
        granted.for_each(|peer| view.count(peer.tags()));
        view
    }

    /// Peers that have tags, with them.
    pub(crate) fn tagged(&self) -> impl Iterator<Item = (NodeKey, &[String])> {
        let tagged = self.peers.iter().filter(|peer| !peer.tags().is_empty());
        tagged.filter_map(|peer| Some((peer.key?, peer.tags())))
    }

    /// The tags of a peer; none if there is no such peer.
    pub(crate) fn tags_of(&self, key: NodeKey) -> &[String] {
        self.peers.by_key(key).map_or(&[], Peer::tags)
    }
}
