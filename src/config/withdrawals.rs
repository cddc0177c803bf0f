//! Withdrawn relays. They accept no new sessions, because they will be removed or because their
//! node is cordoned.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Key of the withdrawals in a region's ConfigMap.
pub const WITHDRAWALS_KEY: &str = "withdrawals.yaml";
/// Key of the entry in a region's ConfigMap which says that the PeerRelay is deleted and its devices
/// leave the tailnet, so that relays that end remove their identity. Its text has no meaning.
pub const DELETED_KEY: &str = "deleted";
/// Maximum time from the withdrawal of a relay to its end. Clients look for other relays once a
/// minute, and a handshake may take half a minute.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Key of the entry that applies to all nodes without an entry.
pub const EVERY_NODE: &str = "*";

/// Nodes with a withdrawn relay, each with the time of the withdrawal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawals(pub BTreeMap<String, Timestamp>);

impl Withdrawals {
    /// Returns the time at which the relay on `node` was withdrawn.
    pub fn since(&self, node: &str) -> Option<Timestamp> {
        // No node has this name: names of nodes are DNS names.
        let entry = self.0.get(node).or_else(|| self.0.get(EVERY_NODE));
        entry.copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn a_node_has_its_own_time_or_that_of_every_node() {
        let text = "{n1: '2026-01-01T00:00:00Z', '*': '2026-01-02T00:00:00Z'}";
        let all: Withdrawals = serde_yaml::from_str(text).unwrap();
        assert_eq!(all.since("n1").unwrap().to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(all.since("n2").unwrap().to_string(), "2026-01-02T00:00:00Z");
        assert_eq!(Withdrawals::default().since("n1"), None);
        let again = serde_yaml::from_str(&serde_yaml::to_string(&all).unwrap()).unwrap();
        assert_eq!(all, again);
    }
}
