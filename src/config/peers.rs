//! Other relays of the same PeerRelay, whose addresses a relay tries.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Key of this list in a relay's ConfigMap.
pub const PEERS_KEY: &str = "peers.yaml";

/// Most relays that one relay tries: those after it in the order of names, around the end, so that
/// each of many is tried by as many.
pub const MOST_TRIED: usize = 16;

/// A relay whose probes are answered, and whose addresses are tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePeer {
    /// Name of its RelayNode, which is that of its pod.
    pub relay: String,
    /// Public key of its probes, in hex.
    pub key: String,
    /// What it advertises.
    pub endpoints: Vec<SocketAddr>,
}

/// A key in hex.
pub fn encode_key(key: [u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key that 64 hex digits stand for.
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

    use super::*;
    use crate::edit::{edited, edits};

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
