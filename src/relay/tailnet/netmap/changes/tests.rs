#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        Netmap,
        tests::{NOW, grant, key, netmap, node},
    },
    *,
};

const OFFICE: u8 = 2;
const NEW: u8 = 9;

#[test]
fn a_message_that_changes_nothing_for_a_relay_changes_nothing() {
    let mut map = everyone();
    for message in [
        json!({"OnlineChange": {"2": false}, "PeerSeenChange": {"2": true}}),
        json!({"PeersChangedPatch": [{"NodeID": OFFICE, "Online": true, "Endpoints": ["192.0.2.1:1"]}]}),
        json!({"PeersChanged": [node(OFFICE)]}),
        json!({"PeersRemoved": [NEW]}),
        json!({"Domain": "example.com"}),
        json!({"KeepAlive": true, "PeersRemoved": [OFFICE]}),
    ] {
        let changes = apply(&mut map, &message);
        assert!(changes.is_map == message["KeepAlive"].is_null());
        assert!(changes.judged.is_empty() && changes.tagged.is_empty());
        let others = [changes.device, changes.derp, changes.counts, changes.expiry];
        assert_eq!(others, [false; 4], "{message}");
    }
}

#[test]
fn keys_are_judged_again_whose_peer_is_another_one() {
    let rotated = NEW;
    let mut unsigned = node(OFFICE);
    unsigned["UnsignedPeerAPIOnly"] = json!(true);
    let mut expired = node(OFFICE);
    expired["Expired"] = json!(true);
    let mut moved = node(OFFICE);
    moved["Addresses"] = json!(["100.64.0.77/32"]);
    let patch = |name: &str, value: Value| {
        let mut patch = json!({"NodeID": OFFICE});
        patch[name] = value;
        json!({"PeersChangedPatch": [patch]})
    };
    let cases = [
        (json!({"PeersChanged": [node(NEW)]}), vec![NEW]),
        (json!({"PeersRemoved": [OFFICE]}), vec![OFFICE]),
        (json!({"PeersChanged": [unsigned]}), vec![OFFICE]),
        (json!({"PeersChanged": [expired]}), vec![OFFICE]),
        (json!({"PeersChanged": [moved]}), vec![OFFICE]),
        (patch("Key", key("nodekey", rotated)), vec![OFFICE, rotated]),
        (
            patch("KeyExpiry", json!("2025-12-31T00:00:01Z")),
            vec![OFFICE],
        ),
        (patch("KeySignature", json!("AAAA")), vec![OFFICE]),
        (patch("DiscoKey", key("discokey", 7)), vec![]),
        (patch("DERPRegion", json!(7)), vec![]),
    ];
    for (message, wanted) in cases {
        let changes = apply(&mut everyone(), &message);
        let mut judged = keys(&changes.judged);
        judged.dedup();
        assert_eq!(judged, wanted, "{message}");
        assert_eq!(changes.counts, !wanted.is_empty(), "{message}");
    }
}

#[test]
fn a_key_is_judged_again_that_moves_to_another_peer() {
    let mut map = everyone();
    let mut other = node(NEW);
    other["Key"] = key("nodekey", OFFICE);
    other["Expired"] = json!(true);
    let changes = apply(&mut map, &json!({"PeersChanged": [other]}));
    assert!(keys(&changes.judged).contains(&OFFICE));
    assert!(!map.may_use(NodeKey([OFFICE; 32]), NOW));
    // The other peer comes again as it was: the last one counts.
    let changes = apply(&mut map, &json!({"PeersChanged": [node(OFFICE)]}));
    assert!(keys(&changes.judged).contains(&OFFICE));
    assert!(map.may_use(NodeKey([OFFICE; 32]), NOW));
}

#[test]
fn everybody_is_judged_again_by_another_filter_device_or_lock() {
    let rule = || json!([grant(&["100.64.0.3"], &["*"])]);
    let mut other_capability = grant(&["*"], &["*"]);
    other_capability["CapGrant"][0]["CapMap"] = json!({"example.com/cap/x": null});
    for message in [
        json!({"PacketFilter": rule()}),
        json!({"PacketFilter": []}),
        json!({"PacketFilter": [other_capability]}),
        json!({"PacketFilters": {"base": null}}),
        json!({"PacketFilters": {"*": null}}),
        json!({"PacketFilters": {"base": rule()}}),
        json!({"TKAInfo": {"Head": "A"}}),
        json!({"Peers": [node(3)]}),
    ] {
        let mut map = everyone();
        let changes = apply(&mut map, &message);
        assert_eq!(
            (&changes.judged, changes.counts),
            (&Judged::All, true),
            "{message}"
        );
        assert!(!map.may_use(NodeKey([OFFICE; 32]), NOW), "{message}");
    }
    let mut own = node(1);
    own["CapMap"] = json!({"disable-relay-server": null});
    let mut map = everyone();
    let changes = apply(&mut map, &json!({"Node": own}));
    assert_eq!((changes.judged, changes.device), (Judged::All, true));
    assert!(!map.may_use(NodeKey([OFFICE; 32]), NOW));
    // A named filter beside the base.
    let mut map = everyone();
    let changes = apply(&mut map, &json!({"PacketFilters": {"more": rule()}}));
    assert_eq!(changes.judged, Judged::All);
    assert!(
        map.may_use(NodeKey([OFFICE; 32]), NOW),
        "the base filter stays"
    );
}

#[test]
fn tags_are_changes_of_their_own() {
    let mut map = everyone();
    let mut tagged = node(OFFICE);
    tagged["Tags"] = json!(["tag:a"]);
    let changes = apply(&mut map, &json!({"PeersChanged": [tagged]}));
    assert!(changes.judged.is_empty() && changes.counts);
    assert!(keys(&changes.tagged).contains(&OFFICE));
    assert_eq!(map.tags_of(NodeKey([OFFICE; 32])), ["tag:a"]);
    let changes = apply(&mut map, &json!({"PeersRemoved": [OFFICE]}));
    assert!(keys(&changes.tagged).contains(&OFFICE));
    assert!(map.tags_of(NodeKey([OFFICE; 32])).is_empty());
}

#[test]
fn another_clock_of_control_is_a_change_of_expiries() {
    let mut map = everyone();
    let later = Timestamp::from_second(NOW.as_second() + 3_600).unwrap();
    let at = |time: Timestamp| json!({"KeepAlive": true, "ControlTime": time.to_string()});
    let changes = apply(&mut map, &at(later));
    assert!(changes.expiry && !changes.is_map);
    assert!(!apply(&mut map, &at(later)).expiry);
    assert!(apply(&mut map, &at(NOW)).expiry);
}

fn everyone() -> Netmap {
    netmap(grant(&["*"], &["*"]))
}

fn apply(map: &mut Netmap, message: &Value) -> Changes {
    let message = serde_json::from_value(message.clone()).unwrap();
    map.apply(message, NOW).unwrap()
}

/// First byte of each key.
fn keys(judged: &Judged) -> Vec<u8> {
    match judged {
        Judged::Some(keys) => keys.iter().map(|key| key.0[0]).collect(),
        Judged::All => panic!("all"),
    }
}
