//! Auth keys that the operator has created for relays, each sealed to the relay that requested it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Key of the auth keys in a region's ConfigMap.
pub const ISSUED_KEYS_KEY: &str = "auth-keys.yaml";

/// Auth keys by the name of the relay's pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedKeys(pub BTreeMap<String, IssuedKey>);

/// An auth key that only one relay can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedKey {
    /// Public key with which the relay requested it, in hex.
    pub request: String,
    /// Auth key, sealed to this public key.
    pub sealed: String,
}

impl IssuedKeys {
    /// Returns the auth key that answers a request of a relay.
    pub fn answer(&self, relay: &str, request: &str) -> Option<&IssuedKey> {
        self.0.get(relay).filter(|issued| issued.request == request)
    }
}

/// Context in which an auth key is sealed: the namespace and the name of the relay's pod.
pub fn context(namespace: &str, relay: &str) -> String {
    format!("{namespace}/{relay}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn a_key_answers_the_request_for_which_it_was_created() {
        let text = "{edge-office-1: {request: aa, sealed: bb}}";
        let keys: IssuedKeys = serde_yaml::from_str(text).unwrap();
        assert_eq!(keys.answer("edge-office-1", "aa").unwrap().sealed, "bb");
        assert_eq!(keys.answer("edge-office-1", "ab"), None);
        assert_eq!(keys.answer("edge-office-2", "aa"), None);
        let again = serde_yaml::from_str(&serde_yaml::to_string(&keys).unwrap()).unwrap();
        assert_eq!(keys, again);
    }
}
