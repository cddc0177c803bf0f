//! Who may use this relay, as its own packet filter says.

use std::collections::BTreeMap;

use super::clients::ClientView;

/// Sets of tags that are told apart, and tags of a set: what a tailnet can make grow has a limit.
const MOST: usize = 16;
/// Longest tag that is told, in bytes; control allows fewer.
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
    /// Whether a rule names every address of the tailnet.
    pub everyone: bool,
    /// Peers that may, by their tags.
    pub sources: BTreeMap<Vec<String>, usize>,
    /// There are more sets of tags.
    pub more_sources: bool,
    /// What is known of each entry of the configured `clients`.
    pub clients: Vec<ClientView>,
    /// Peers that have a tag of this relay and say that they are no relays.
    pub tagged_others: usize,
}

impl GrantView {
    /// Whether `other` differs at most in the times of requests.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let mut settled = self.clone();
        for (client, known) in settled.clients.iter_mut().zip(&other.clients) {
            if client.asked.is_some() && known.asked.is_some() {
                client.asked = known.asked;
            }
        }
        settled == *other
    }

    /// Counts a peer that may.
    pub(crate) fn count(&mut self, tags: &[String]) {
        self.granted_peers += 1;
        let known = tags.iter().filter(|tag| tag.len() <= LONGEST_TAG);
        let mut set: Vec<String> = known.cloned().collect();
        set.sort();
        set.truncate(MOST);
        if self.sources.len() < MOST || self.sources.contains_key(&set) {
            *self.sources.entry(set).or_default() += 1;
        } else {
            self.more_sources = true;
        }
    }
}
