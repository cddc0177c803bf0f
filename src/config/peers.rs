//! Other relays of the same PeerRelay, which a relay probes.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Key of the list of peers in a relay's ConfigMap.
pub const PEERS_KEY: &str = "peers.yaml";

/// Maximum number of relays that one relay probes. It probes the relays that follow it in the order
/// of their names, and continues at the start. Each relay is therefore probed by as many others.
pub const MOST_TRIED: usize = 16;

/// Peer whose addresses a relay probes and whose probes it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePeer {
    /// Name of the peer's RelayNode and of its pod.
    pub relay: String,
    /// Public key of the peer's probes, in hex.
    pub key: String,
    /// Endpoints of the peer.
    pub endpoints: Vec<SocketAddr>,
    /// Endpoints of these that no relay reaches, while others like them are reached. The peer does
    /// not advertise them, and other relays go on probing them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<SocketAddr>,
}

/// Returns the key in hex.
pub fn encode_key(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses a key of 64 hex digits.
pub fn decode_key(text: &str) -> Option<[u8; 32]> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.len() != 64 || !is_hex {
        return None;
    }
    let mut key = [0; 32];
    for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use bolero::{ValueGenerator, check, one_of, produce};
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key = std::array::from_fn(|n| n as u8 * 7);
        assert_eq!(decode_key(&encode_key(key)), Some(key));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32), &"+f".repeat(32)] {
            assert_eq!(decode_key(bad), None);
        }
    }

    #[test]
    fn a_key_that_is_read_is_written_the_same() {
        let near = (produce::<[u8; 32]>(), edits());
        let near = near.map_gen(|(key, edits)| edited(encode_key(key).as_bytes(), &edits));
        let text = one_of((near, produce::<Vec<u8>>().with().len(64_usize)));
        let check = check!().with_iterations(20_000).with_generator(text);
        check.for_each(|text| {
            let text = String::from_utf8_lossy(text);
            if let Some(key) = decode_key(&text) {
                assert_eq!(encode_key(key), text.to_lowercase());
            }
        });
    }
}
