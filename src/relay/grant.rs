//! Devices that may use this relay, by its own packet filter.

use std::collections::BTreeMap;

use super::clients::ClientView;

/// Largest number of tag sets, and of tags in a set, because a tailnet can make them grow.
const MAX_TAGS: usize = 16;
/// Longest tag that is shown, in bytes; control allows fewer.
const LONGEST_TAG: usize = 128;

/// Devices that may use this relay, without names and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantView {
    /// Rules that grant the relay capability on this device.
    pub rules: usize,
    /// Peers in the network map.
    pub known_peers: usize,
    /// Peers that may use this relay.
    pub granted_peers: usize,
    /// `true` if a rule names every address of the tailnet.
    pub everyone: bool,
    /// Numbers of peers that may use this relay, by their tags.
    pub sources: BTreeMap<Vec<String>, usize>,
    /// `true` if there are more sets of tags than `sources` holds.
    pub more_sources: bool,
    /// Entries of the configured `clients`.
    pub clients: Vec<ClientView>,
    /// Peers that have a tag of this relay and report that they are no relays.
    pub tagged_others: usize,
}

impl GrantView {
    /// Returns whether `other` differs at most in the times of requests.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let mut settled = self.clone();
        for (client, other) in settled.clients.iter_mut().zip(&other.clients) {
            if client.asked.is_some() && other.asked.is_some() {
                client.asked = other.asked;
            }
        }
        settled == *other
    }

    /// Counts a peer that may use this relay.
    pub(crate) fn count(&mut self, tags: &[String]) {
        self.granted_peers += 1;
        let short = tags.iter().filter(|tag| tag.len() <= LONGEST_TAG);
        let mut set: Vec<String> = short.cloned().collect();
        set.sort();
        set.truncate(MAX_TAGS);
        if self.sources.len() < MAX_TAGS || self.sources.contains_key(&set) {
            *self.sources.entry(set).or_default() += 1;
        } else {
            self.more_sources = true;
        }
    }
}
