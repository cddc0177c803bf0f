#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeMap;

use bolero::{check, produce};
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::constant(1_767_139_200, 0);

/// The reference is a map by id, and a search for the peer with a key that came last.
#[test]
fn peers_are_found_by_id_and_key_however_they_come_and_go() {
    let steps = produce::<Vec<(bool, u8, u8)>>().with().len(0..80_usize);
    check!().with_generator(steps).for_each(|steps| {
        let (mut peers, mut reference) = (Peers::default(), BTreeMap::new());
        let mut holders: BTreeMap<u8, i64> = BTreeMap::new();
        for (is_removed, id, key) in steps {
            let (id, key) = (i64::from(id % 8), key % 12);
            let previous = if *is_removed {
                let previous = reference.remove(&id);
                assert_eq!(
                    peers.remove(id).and_then(|peer| peer.key),
                    previous.map(node_key)
                );
                previous
            } else {
                let peer = Peer {
                    id,
                    key: Some(node_key(key)),
                    ..read(&json!({}))
                };
                let before = peers.insert(peer, None);
                let previous = reference.insert(id, key);
                assert_eq!(before.and_then(|peer| peer.key), previous.map(node_key));
                previous
            };
            if let Some(previous) = previous
                && holders.get(&previous) == Some(&id)
            {
                holders.remove(&previous);
            }
            if !is_removed {
                holders.insert(key, id);
            }
            assert_eq!(peers.len(), reference.len());
            for (id, key) in &reference {
                assert_eq!(peers.by_id(*id).unwrap().key, Some(node_key(*key)));
            }
            for key in 0..12 {
                let found = peers.by_key(node_key(key)).map(|peer| peer.id);
                assert_eq!(found, holders.get(&key).copied(), "{steps:?}");
            }
        }
    });
}

#[test]
fn no_expiry_is_missed() {
    let mut peers = Peers::default();
    let expiring = |id: i64, seconds: i64| {
        let at = Timestamp::from_second(NOW.as_second() + seconds).unwrap();
        read(&json!({"ID": id, "KeyExpiry": at.to_string()}))
    };
    assert_eq!(peers.first_expiry().time(), None);
    for (id, seconds) in [(1, 300), (2, 100), (3, -50), (4, 200)] {
        peers.insert(expiring(id, seconds), Some(NOW));
    }
    let seconds = |expiry: Expiry| expiry.time().map(|at| at.as_second() - NOW.as_second());
    assert_eq!(seconds(peers.first_expiry()), Some(100), "one is over");
    let later = Timestamp::from_second(NOW.as_second() + 100).unwrap();
    assert_eq!(seconds(peers.expiry_after(later)), Some(200));
    peers.set_first_expiry(peers.expiry_after(later));
    peers.insert(expiring(5, 150), Some(later));
    assert_eq!(seconds(peers.first_expiry()), Some(150));
    peers.remove(5);
    assert_eq!(seconds(peers.expiry_after(later)), Some(200));
}

#[test]
fn times_that_are_far_away_are_read_as_the_first_and_the_last() {
    let of = |text: &str| read(&json!({"KeyExpiry": text})).expiry;
    assert!(of("1500-01-01T00:00:00Z").is_over(Some(NOW)));
    assert!(!of("9000-01-01T00:00:00Z").is_over(Some(NOW)));
    assert!(!of("0001-01-01T00:00:00Z").is_over(Some(NOW)));
    let exact = of(&NOW.to_string());
    assert!(exact.is_over(Some(NOW)) && !exact.is_over(None));
}

#[test]
fn a_peer_is_read_with_nulls_of_go_and_without_fields_that_are_not_used() {
    let peer = read(&json!({
        "ID": 3, "DiscoKey": "", "Addresses": null, "CapMap": {"x": [1, {"y": null}]}, "Tags": null,
        "DERP": "127.3.3.40:7", "Hostinfo": null, "Name": "a.example.ts.net.",
    }));
    assert_eq!(
        (peer.id, peer.home_region(), peer.disco),
        (3, Some(7), None)
    );
    assert_eq!(
        (&*peer.name, peer.tags().len(), peer.is_relay),
        ("a.example.ts.net", 0, None)
    );
    let addresses = json!({"Addresses": [
        "192.0.2.0/24", "fd7a::2/128", "100.64.0.2/32", "fd7a::3/128", "100.64.0.3/32",
    ]});
    let ips: Vec<_> = read(&addresses)
        .ips
        .iter()
        .map(|ip| ip.to_string())
        .collect();
    assert_eq!(ips, ["fd7a::2", "100.64.0.2", "fd7a::3", "100.64.0.3"]);
    let first = read(&json!({"Addresses": ["100.64.0.2/32", "fd7a::2/128"]}))
        .ips
        .first();
    assert_eq!(first.map(|ip| ip.unwrap().is_ipv4()), [true, false]);
    for invalid in [
        json!({"Addresses": ["100.64.0.2"]}),
        json!({"Key": "mkey:00"}),
        json!({"Tags": [1]}),
    ] {
        assert!(
            serde_json::from_value::<Peer>(invalid.clone()).is_err(),
            "{invalid}"
        );
    }
}

#[test]
fn peers_with_equal_tags_share_them() {
    let tagged = |id: i64| json!({"ID": id, "Tags": ["tag:a", "tag:b"]});
    let peers: Peers = serde_json::from_value(json!([tagged(1), tagged(2), {"ID": 3}])).unwrap();
    let tags = |id| peers.by_id(id).unwrap().tags.clone();
    assert!(std::sync::Arc::ptr_eq(&tags(1).unwrap(), &tags(2).unwrap()));
    assert_eq!(tags(3), None);
}

#[test]
fn a_peer_takes_no_more_memory_than_it_did() {
    let size = size_of::<Option<Peer>>();
    assert!(size <= 168, "{size} bytes");
}

fn node_key(byte: u8) -> NodeKey {
    NodeKey([byte + 1; 32])
}

fn read(peer: &Value) -> Peer {
    serde_json::from_value(peer.clone()).unwrap()
}
