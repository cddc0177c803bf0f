//! The effect of a message on those who use the map.

use relay_proto::NodeKey;

use crate::relay::tailnet::peers::Peer;

/// The difference that a message of the map stream makes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The message is a map, and not a keep-alive.
    pub(crate) is_map: bool,
    /// Peers that may have lost their right to use the relay.
    pub(crate) judged: Judged,
    /// Peers whose tags are others than before, or that are new or gone.
    pub(crate) tagged: Judged,
    /// This device, or a state of the whole tailnet that concerns it.
    pub(crate) device: bool,
    /// The regions of the DERP map.
    pub(crate) derp: bool,
    /// Peers that were refused because there are too many.
    pub(crate) refused: usize,
    /// Numbers of peers that are reported.
    pub(crate) counts: bool,
    /// The time at which the next key expires.
    pub(crate) expiry: bool,
}

impl Changes {
    /// Adds that all peers may be others.
    pub(super) fn add_all(&mut self) {
        (self.judged, self.tagged) = (Judged::All, Judged::All);
        (self.counts, self.expiry) = (true, true);
    }

    /// Adds that a peer is another one than before.
    pub(super) fn add_peer(&mut self, previous: Option<&Peer>, peer: Option<&Peer>) {
        let both = previous.zip(peer);
        let keys = || {
            [previous, peer]
                .into_iter()
                .flatten()
                .filter_map(|peer| peer.key)
        };
        if !both.is_some_and(|(previous, peer)| peer.has_rights_of(previous)) {
            self.judged.add(keys());
            self.expiry = true;
        }
        let has_tags_of = |(previous, peer): (&Peer, &Peer)| {
            (&peer.tags, peer.key) == (&previous.tags, previous.key)
        };
        if !both.is_some_and(has_tags_of) {
            self.tagged.add(keys());
        }
        self.counts |= !both.is_some_and(|(previous, peer)| peer.counts_as(previous));
    }
}

/// Peers that a change concerns, by node key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Judged {
    Some(Vec<NodeKey>),
    All,
}

impl Default for Judged {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Judged {
    /// Adds peers by their node keys.
    pub(super) fn add(&mut self, keys: impl IntoIterator<Item = NodeKey>) {
        if let Self::Some(all) = self {
            all.extend(keys);
        }
    }

    /// Returns whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self, Self::Some(keys) if keys.is_empty())
    }
}

#[cfg(test)]
mod tests;
