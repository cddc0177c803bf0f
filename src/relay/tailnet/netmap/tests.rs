#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use bolero::check;
use fuzz_edits::{edited, edits};
use serde_json::{Value, json};

use super::{filter::CAP_RELAY, *};
use crate::relay::{clients::Clients, tailnet::tag_numbers::TagNumbers};

const OFFICE: u8 = 2;
const OTHER: u8 = 3;
/// Midnight of 2025-12-31.
pub(super) const NOW: Timestamp = Timestamp::constant(1_767_139_200, 0);

#[test]
fn granted_peer_may_relay_and_others_may_not() {
    let map = netmap(grant(&["100.64.0.2"], &["100.64.0.1/32"]));
    assert!(may_relay(&map, OFFICE));
    assert!(!may_relay(&map, OTHER));
    assert_eq!(map.grant(NOW).granted_peers, 1);
    assert!(map.peer(NodeKey([9; 32]), NOW).is_none());
    assert_eq!(allowed(&map, NOW), Some([NodeKey([OFFICE; 32])].into()));
}

#[test]
fn nobody_is_refused_before_the_first_map() {
    let mut map = Netmap::default();
    map.begin_stream();
    apply(&mut map, json!({"KeepAlive": true}));
    assert_eq!(allowed(&map, NOW), None);
    apply(&mut map, json!({"Node": node(1), "Peers": [node(OFFICE)]}));
    assert_eq!(allowed(&map, NOW), Some(BTreeSet::new()));
}

#[test]
fn nobody_may_relay_when_the_last_peer_has_gone() {
    let mut map = netmap(grant(&["*"], &["*"]));
    apply(&mut map, json!({"PeersRemoved": [OFFICE, OTHER]}));
    assert_eq!(allowed(&map, NOW), Some(BTreeSet::new()));
}

#[test]
fn nobody_may_relay_where_the_policy_turns_the_relay_off() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let mut own = node(1);
    own["CapMap"] = json!({"disable-relay-server": null});
    apply(&mut map, json!({"Node": own}));
    assert_eq!(allowed(&map, NOW), Some(BTreeSet::new()));
    apply(&mut map, json!({"Node": node(1)}));
    assert_eq!(allowed(&map, NOW).unwrap().len(), 2);
}

#[test]
fn a_device_is_unsigned_while_tailnet_lock_is_enabled_and_has_not_signed_it() {
    let mut map = netmap(grant(&["*"], &["*"]));
    assert!(
        !map.own_unsigned(),
        "Tailnet Lock is off unless control says otherwise"
    );
    apply(&mut map, json!({"TKAInfo": {"Head": "A"}}));
    assert!(map.own_unsigned());
    let mut signed = node(1);
    signed["KeySignature"] = json!("AAAA");
    apply(&mut map, json!({"Node": signed}));
    assert!(!map.own_unsigned());
    apply(&mut map, json!({"Node": node(1)}));
    assert!(
        map.own_unsigned(),
        "a message without TKAInfo changes nothing"
    );
    apply(&mut map, json!({"TKAInfo": {"Disabled": true}}));
    assert!(!map.own_unsigned());
    apply(&mut map, json!({"TKAInfo": {"Head": "B"}}));
    map.begin_stream();
    apply(&mut map, json!({"Node": node(1)}));
    assert!(
        !map.own_unsigned(),
        "the first map of a stream says everything"
    );
}

#[test]
fn peers_that_tailnet_lock_has_not_signed_may_not_relay() {
    let mut map = netmap(grant(&["*"], &["*"]));
    apply(&mut map, json!({"TKAInfo": {"Head": "A"}}));
    assert_eq!(allowed(&map, NOW), Some(BTreeSet::new()));
    let mut signed = node(OFFICE);
    signed["KeySignature"] = json!("AAAA");
    apply(&mut map, json!({"PeersChanged": [signed]}));
    assert!(may_relay(&map, OFFICE) && !may_relay(&map, OTHER));
    let patch = |id, other| json!({"PeersChangedPatch": [{"NodeID": id, "DERPRegion": 1, "KeySignature": other}]});
    apply(&mut map, patch(OTHER, json!("AAAA")));
    assert!(may_relay(&map, OTHER));
    apply(&mut map, patch(OTHER, Value::Null));
    assert!(may_relay(&map, OTHER), "nothing is said of its signature");
    let key = format!("nodekey:{}", "0a".repeat(32));
    let rotated = json!({"PeersChangedPatch": [{"NodeID": OTHER, "Key": key}]});
    apply(&mut map, rotated);
    assert_eq!(
        allowed(&map, NOW),
        Some([NodeKey([OFFICE; 32])].into()),
        "the new key is unsigned"
    );
    apply(&mut map, json!({"TKAInfo": {"Disabled": true}}));
    assert_eq!(allowed(&map, NOW).unwrap().len(), 2);
}

#[test]
fn the_first_map_of_a_stream_replaces_all_that_was_known() {
    let mut map = netmap(grant(&["100.64.0.2"], &["*"]));
    let named = json!([grant(&["100.64.0.3"], &["*"])]);
    apply(&mut map, json!({"PacketFilters": {"named": named}}));
    assert_eq!(allowed(&map, NOW).unwrap().len(), 2);

    map.begin_stream();
    apply(&mut map, json!({"KeepAlive": true}));
    assert_eq!(allowed(&map, NOW).unwrap().len(), 2, "the old map holds");
    let error = map.apply(MapResponse::default(), NOW).err();
    assert_eq!(error, Some(DeviceMissing));
    assert_eq!(allowed(&map, NOW).unwrap().len(), 2, "the old map holds");
    let peers = [node(OFFICE), node(OTHER)];
    let base = json!([grant(&["100.64.0.2"], &["*"])]);
    apply(
        &mut map,
        json!({"Node": node(1), "Peers": peers, "PacketFilter": base}),
    );
    let office = BTreeSet::from([NodeKey([OFFICE; 32])]);
    assert_eq!(allowed(&map, NOW), Some(office.clone()));
    apply(&mut map, json!({"PeersRemoved": [OTHER]}));
    assert_eq!(allowed(&map, NOW), Some(office), "the filter is unchanged");

    map.begin_stream();
    apply(&mut map, json!({"Node": node(1)}));
    assert_eq!(allowed(&map, NOW), Some(BTreeSet::new()));
    assert!(map.peer(NodeKey([OFFICE; 32]), NOW).is_none());
}

#[test]
fn a_list_of_all_peers_excludes_changes_of_some() {
    let mut map = netmap(grant(&["*"], &["*"]));
    apply(
        &mut map,
        json!({"Peers": [node(OFFICE)], "PeersChanged": [node(OTHER)], "PeersRemoved": [OFFICE]}),
    );
    let office = NodeKey([OFFICE; 32]);
    assert_eq!(allowed(&map, NOW), Some([office].into()));
    // A peer that is replaced is removed first.
    apply(
        &mut map,
        json!({"PeersChanged": [node(OTHER)], "PeersRemoved": [OTHER, OFFICE]}),
    );
    assert_eq!(allowed(&map, NOW), Some([NodeKey([OTHER; 32])].into()));
}

#[test]
fn peers_with_expired_keys_may_not_relay() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let later = NOW + Duration::from_secs(100);
    let patch = |expiry: Option<Timestamp>| {
        let expiry = expiry.map_or("0001-01-01T00:00:00Z".into(), |at| at.to_string());
        json!({"PeersChangedPatch": [{"NodeID": OFFICE, "KeyExpiry": expiry}]})
    };
    let office = |map: &Netmap, now| {
        let allowed = allowed(map, now).unwrap().contains(&NodeKey([OFFICE; 32]));
        let (peer, _) = map.peer(NodeKey([OFFICE; 32]), now).unwrap();
        assert_eq!(peer.may_relay, allowed);
        allowed
    };
    assert_eq!(map.next_expiry(NOW), None);
    apply(&mut map, patch(Some(later)));
    assert_eq!(map.next_expiry(NOW), Some(Duration::from_secs(100)));
    assert!(office(&map, NOW) && !office(&map, later));
    assert_eq!(
        map.next_expiry(later),
        Some(Duration::ZERO),
        "it is to be looked for"
    );
    let next = map.expiry_after(later).unwrap();
    map.set_first_expiry(next, later);
    assert_eq!(map.next_expiry(later), None);
    let back = map.next_expiry(NOW);
    assert_eq!(
        back,
        Some(Duration::ZERO),
        "a clock that is set back makes keys valid again"
    );
    apply(&mut map, patch(None));
    assert!(office(&map, later));

    // By the control server's clock, if that is another one.
    apply(&mut map, patch(Some(later)));
    apply(
        &mut map,
        json!({"KeepAlive": true, "ControlTime": later.to_string()}),
    );
    assert!(!office(&map, NOW));
    apply(&mut map, json!({"ControlTime": NOW.to_string()}));
    assert!(office(&map, NOW));

    let mut expired = node(OFFICE);
    expired["Expired"] = json!(true);
    apply(&mut map, json!({"PeersChanged": [expired]}));
    assert!(!office(&map, NOW));
    assert_eq!(map.grant(NOW).granted_peers, 1);
}

#[test]
fn keys_are_looked_at_again_once_the_time_is_known() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let office = NodeKey([OFFICE; 32]);
    let mut expired = node(OFFICE);
    expired["KeyExpiry"] = json!("2025-12-30T00:00:00Z");
    apply(&mut map, json!({"PeersChanged": [expired]}));
    assert!(!map.may_use(office, NOW));
    assert_eq!(map.next_expiry(NOW), None);
    let clock = |time: &str| json!({"KeepAlive": true, "ControlTime": time});
    apply(&mut map, clock("2020-01-01T00:00:00Z"));
    assert!(map.may_use(office, NOW), "the time cannot be right");
    assert_eq!(map.next_expiry(NOW), None);
    apply(&mut map, clock(&NOW.to_string()));
    assert!(!map.may_use(office, NOW));
    assert_eq!(map.next_expiry(NOW), Some(Duration::ZERO));
}

#[test]
fn this_devices_key_expires_too() {
    let mut map = netmap(json!({}));
    let mut own = node(1);
    let later = NOW + Duration::from_secs(100);
    own["KeyExpiry"] = later.to_string().into();
    apply(&mut map, json!({"Node": own}));
    assert_eq!(map.next_expiry(NOW), Some(Duration::from_secs(100)));
    assert!(!map.own_expired(NOW) && map.own_expired(later));
}

#[test]
fn only_the_first_pair_of_addresses_of_a_family_counts() {
    let map = netmap(grant(&["fd7a:115c:a1e0::2"], &["*"]));
    assert!(!may_relay(&map, OFFICE), "its IPv4 address is first");
    let mut map = netmap(grant(&["*"], &["fd7a::/16"]));
    let mut peer = node(OFFICE);
    peer["Addresses"] = json!(["fd7a:115c:a1e0::2/128"]);
    apply(&mut map, json!({"PeersChanged": [peer]}));
    assert!(may_relay(&map, OFFICE) && !may_relay(&map, OTHER));
}

#[test]
fn who_may_relay_is_told_by_tags_and_without_addresses() {
    let mut map = netmap(grant(&["100.64.0.2", "100.64.0.3"], &["100.64.0.1"]));
    let mut tagged = node(OFFICE);
    tagged["Tags"] = json!(["tag:office", "tag:eu"]);
    apply(&mut map, json!({"PeersChanged": [tagged]}));
    let view = map.grant(NOW);
    let office = vec!["tag:eu".to_owned(), "tag:office".to_owned()];
    assert_eq!(view.sources, [(office, 1), (vec![], 1)].into());
    assert_eq!((view.rules, view.known_peers, view.everyone), (1, 2, false));
    let elsewhere = netmap(grant(&["*"], &["100.64.0.9"])).grant(NOW);
    assert_eq!((elsewhere.rules, elsewhere.everyone), (0, false));
}

#[test]
fn peers_with_the_same_tag_share_its_number_and_count_once_for_it() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let (mut office, mut other) = (node(OFFICE), node(OTHER));
    office["Tags"] = json!(["tag:office", "tag:eu", "tag:office"]);
    other["Tags"] = json!(["tag:eu"]);
    apply(&mut map, json!({"PeersChanged": [office, other]}));
    let tags = tags(&map);
    let (office, other) = (&tags[&NodeKey([OFFICE; 32])], &tags[&NodeKey([OTHER; 32])]);
    assert_eq!((office.len(), other.len()), (2, 1));
    assert!(office.contains(&other[0]));
    apply(&mut map, json!({"PeersChanged": [node(OTHER)]}));
    assert!(!self::tags(&map).contains_key(&NodeKey([OTHER; 32])));
}

#[test]
fn a_rule_for_the_whole_tailnet_is_one_for_everyone() {
    let everyone = [
        "*",
        "100.64.0.0/10",
        "0.0.0.0/0",
        "100.64.0.0-100.115.91.255",
        "fd7a:115c:a1e0::/48",
    ];
    for source in everyone {
        assert!(
            netmap(grant(&[source], &["*"])).grant(NOW).everyone,
            "{source}"
        );
    }
    for source in [
        "100.64.0.0/16",
        "100.64.0.0-100.65.0.0",
        "cap:x",
        "fd7a:115c:a1e0:1::/64",
    ] {
        assert!(
            !netmap(grant(&[source], &["*"])).grant(NOW).everyone,
            "{source}"
        );
    }
}

#[test]
fn sets_of_tags_have_a_limit() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let peers: Vec<_> = (10..60)
        .map(|id| {
            let mut peer = node(id);
            peer["Tags"] = json!([format!("tag:t{id}")]);
            peer
        })
        .collect();
    apply(&mut map, json!({"Peers": peers}));
    let view = map.grant(NOW);
    assert_eq!((view.granted_peers, view.sources.len()), (50, 16));
    assert!(view.more_sources);
}

#[test]
fn every_form_of_source_is_understood() {
    let forms = ["*", "100.64.0.2", "100.64.0.0/30", "100.64.0.2-100.64.0.9"];
    for source in forms {
        let destinations = ["100.64.0.1", "fd7a:115c:a1e0::1"];
        assert!(
            may_relay(&netmap(grant(&[source], &destinations)), OFFICE),
            "{source}"
        );
    }
    for source in [
        "100.64.0.7",
        "cap:some-attribute",
        "nonsense",
        "100.64.0.2/30",
        "100.64.0.9-100.64.0.2",
        "100.64.0.5-100.64.0.9",
    ] {
        assert!(
            !may_relay(&netmap(grant(&[source], &["100.64.0.1"])), OFFICE),
            "{source}"
        );
    }
}

#[test]
fn families_must_match() {
    assert!(!may_relay(
        &netmap(grant(&["100.64.0.2"], &["fd7a:115c:a1e0::1"])),
        OFFICE
    ));
}

#[test]
fn other_capabilities_grant_nothing() {
    let mut rule = grant(&["*"], &["*"]);
    rule["CapGrant"][0]["CapMap"] = json!({"tailscale.com/cap/relay-target": null});
    assert!(!may_relay(&netmap(rule), OFFICE));
}

#[test]
fn named_filters_come_and_go() {
    let mut map = netmap(json!({}));
    let rules = json!([grant(&["100.64.0.2"], &["100.64.0.1"])]);
    apply(&mut map, json!({"PacketFilters": {"relays": rules}}));
    assert!(may_relay(&map, OFFICE));
    apply(&mut map, json!({"PacketFilters": {"relays": null}}));
    assert!(!may_relay(&map, OFFICE));
    apply(
        &mut map,
        json!({"PacketFilters": {"*": null, "relays": rules}}),
    );
    assert!(may_relay(&map, OFFICE));
    apply(&mut map, json!({"PacketFilter": []}));
    assert!(may_relay(&map, OFFICE), "the base filter is another one");
    apply(&mut map, json!({"PacketFilters": {"*": null}}));
    assert!(!may_relay(&map, OFFICE));
}

#[test]
fn clients_are_counted_by_tag_and_user_and_requests_noted() {
    let mut map = netmap(grant(&["100.64.0.2"], &["*"]));
    let (mut office, mut other) = (node(OFFICE), node(OTHER));
    office["Tags"] = json!(["tag:office"]);
    other["User"] = json!(7);
    let profile = json!({"ID": 7, "LoginName": "alice@example.com"});
    apply(
        &mut map,
        json!({"PeersChanged": [office, other], "UserProfiles": [profile]}),
    );
    let clients = Clients::default();
    let texts = ["tag:office", "alice@example.com", "tag:lab"].map(str::to_owned);
    clients.set(&texts, NOW);
    assert!(map.record_request(NodeKey([OTHER; 32]), &clients, NOW));
    assert!(!map.record_request(NodeKey([9; 32]), &clients, NOW));
    let counted = map.clients(&clients, NOW).into_iter().map(|view| {
        let devices = view.devices.unwrap();
        (devices.known, devices.granted, view.asked.is_some())
    });
    let wanted = [(1, 1, false), (1, 0, true), (0, 0, false)];
    assert_eq!(counted.collect::<Vec<_>>(), wanted);
}

#[test]
fn devices_with_the_relays_tag_are_counted_unless_they_are_relays() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let tagged = |id: u8, hostinfo: Value| {
        let mut node = node(id);
        node["Tags"] = json!(["tag:relay"]);
        node["Hostinfo"] = hostinfo;
        node
    };
    let peers = [
        tagged(OFFICE, json!({"PeerRelay": true})),
        tagged(OTHER, json!({"OS": "linux"})),
        tagged(7, Value::Null),
        node(8),
    ];
    apply(&mut map, json!({"PeersChanged": peers}));
    assert_eq!(map.tagged_others(&["tag:relay".into()]), 1);
    assert_eq!(map.tagged_others(&["tag:else".into()]), 0);
}

#[test]
fn peers_change_by_whole_by_patch_and_leave() {
    let mut map = netmap(grant(&["*"], &["*"]));
    apply(
        &mut map,
        json!({"PeersChangedPatch": [
        {"NodeID": OFFICE, "DERPRegion": 5, "DiscoKey": format!("discokey:{}", "0f".repeat(32))}]}),
    );
    let (peer, home) = map.peer(NodeKey([OFFICE; 32]), NOW).unwrap();
    assert_eq!((peer.disco.unwrap().0, home), ([0x0f; 32], Some(5)));

    let mut rotated = node(OFFICE);
    rotated["Key"] = key("nodekey", 0x77);
    apply(&mut map, json!({"PeersChanged": [rotated]}));
    assert!(
        map.peer(NodeKey([OFFICE; 32]), NOW).is_none(),
        "the old key is gone"
    );
    assert!(map.peer(NodeKey([0x77; 32]), NOW).is_some());

    apply(&mut map, json!({"PeersRemoved": [OFFICE]}));
    assert!(map.peer(NodeKey([0x77; 32]), NOW).is_none());
    apply(&mut map, json!({"Peers": []}));
    assert!(map.peer(NodeKey([OTHER; 32]), NOW).is_some(), "no list");
}

#[test]
fn regions_stay_when_only_parameters_of_the_derp_map_change() {
    let mut map = netmap(json!({}));
    apply(
        &mut map,
        json!({"DERPMap": {"Regions": {"4": {"RegionCode": "fra"}}}}),
    );
    apply(
        &mut map,
        json!({"DERPMap": {"HomeParams": {"RegionScore": {"4": 0.5}}}}),
    );
    apply(&mut map, json!({"DERPMap": {"Regions": null}}));
    assert!(map.derp().regions.contains_key(&4));
}

#[test]
fn node_attribute_turns_the_relay_off() {
    let mut map = netmap(json!({}));
    assert!(!map.relay_disabled());
    let mut own = node(1);
    own["CapMap"] = json!({"disable-relay-server": null});
    apply(&mut map, json!({"Node": own}));
    assert!(map.relay_disabled());
}

#[test]
fn a_key_expires_when_control_says_and_gos_zero_time_is_never() {
    let mut map = netmap(json!({}));
    for (told, seconds) in [
        ("2027-01-01T00:00:00Z", Some(1_798_761_600)),
        ("0001-01-01T00:00:00Z", None),
        ("1970-01-01T00:00:00Z", Some(0)),
    ] {
        let mut own = node(1);
        own["KeyExpiry"] = told.into();
        apply(&mut map, json!({"Node": own}));
        let expiry = map.own().unwrap().key_expiry;
        assert_eq!(expiry.map(|time| time.as_second()), seconds, "{told}");
    }
    assert!(serde_json::from_str::<Node>(r#"{"KeyExpiry": "soon"}"#).is_err());
}

#[test]
fn peer_that_tailnet_lock_has_not_signed_may_not_relay() {
    let mut map = netmap(grant(&["*"], &["*"]));
    let mut unsigned = node(OFFICE);
    unsigned["UnsignedPeerAPIOnly"] = json!(true);
    apply(&mut map, json!({"PeersChanged": [unsigned]}));
    let (peer, _) = map.peer(NodeKey([OFFICE; 32]), NOW).unwrap();
    assert!(peer.unsigned_peer_api_only && !peer.may_relay);
    assert_eq!(map.grant(NOW).granted_peers, 1);
    assert_eq!(allowed(&map, NOW), Some([NodeKey([OTHER; 32])].into()));
}

#[test]
fn a_map_that_is_changed_anywhere_is_refused_or_grants_what_it_says() {
    let (mut peer, mut unsigned) = (node(OFFICE), node(7));
    unsigned["UnsignedPeerAPIOnly"] = json!(true);
    peer["Tags"] = json!(["tag:office"]);
    peer["CapMap"] = json!({"tailscale.com/cap/x": null});
    let sources = [
        "*",
        "cap:tailscale.com/cap/x",
        "100.64.0.0/10",
        "100.64.0.2-100.64.0.9",
    ];
    let region = json!({"Nodes": [{"HostName": "a", "IPv4": "192.0.2.1", "STUNPort": 9}]});
    let whole = json!({
        "Node": node(1),
        "Peers": [peer, node(OTHER), unsigned],
        "PeersChangedPatch": [{"NodeID": OTHER, "DERPRegion": 4}],
        "PeersRemoved": [9],
        "DERPMap": {"Regions": {"1": region}},
        "PacketFilter": [grant(&sources, &["100.64.0.1", "fd7a::-fd7b::"])],
        "PacketFilters": {"more": [grant(&["fd7a::/16"], &["*"])], "*": null},
    });
    let whole = serde_json::to_vec(&whole).unwrap();
    let read = |bytes: &[u8]| serde_json::from_slice::<MapResponse>(bytes);
    assert!(read(&whole).is_ok());
    let check = check!().with_iterations(5_000).with_generator(edits());
    check.for_each(|edits| {
        let Ok(message) = read(&edited(&whole, edits)) else {
            return;
        };
        let mut map = netmap(grant(&["*"], &["*"]));
        map.apply(message, NOW).ok();
        let granted = map.grant(NOW);
        assert!(granted.granted_peers <= granted.known_peers);
        for key in allowed(&map, NOW).into_iter().flatten() {
            let (peer, _) = map.peer(key, NOW).expect("only peers are allowed");
            assert!(peer.may_relay && !peer.unsigned_peer_api_only);
        }
        assert!(map.tagged().all(|(key, _)| map.peer(key, NOW).is_some()));
        map.derp().stun_servers();
    });
}

pub(super) fn netmap(rule: Value) -> Netmap {
    let mut map = Netmap::default();
    let peers = [node(OFFICE), node(OTHER)];
    apply(
        &mut map,
        json!({"Node": node(1), "Peers": peers, "PacketFilter": [rule]}),
    );
    map
}

pub(super) fn grant(sources: &[&str], destinations: &[&str]) -> Value {
    let grant = json!({"Dsts": destinations, "CapMap": {CAP_RELAY: null}});
    json!({"SrcIPs": sources, "CapGrant": [grant]})
}

pub(super) fn node(id: u8) -> Value {
    json!({
        "ID": id,
        "Key": key("nodekey", id),
        "DiscoKey": key("discokey", id),
        "Addresses": [format!("100.64.0.{id}/32"), format!("fd7a:115c:a1e0::{id}/128")],
        "HomeDERP": 1,
    })
}

pub(super) fn key(prefix: &str, byte: u8) -> Value {
    format!("{prefix}:{}", format!("{byte:02x}").repeat(32)).into()
}

fn apply(map: &mut Netmap, message: Value) {
    map.apply(serde_json::from_value(message).unwrap(), NOW)
        .unwrap();
}

fn may_relay(map: &Netmap, id: u8) -> bool {
    map.peer(NodeKey([id; 32]), NOW).unwrap().0.may_relay
}

/// Node keys of the peers that may use this relay; `None` before the first network map.
pub(super) fn allowed(map: &Netmap, now: Timestamp) -> Option<BTreeSet<NodeKey>> {
    map.own()?;
    let keys = map.peers.iter().filter_map(|peer| peer.key);
    Some(keys.filter(|key| map.may_use(*key, now)).collect())
}

fn tags(map: &Netmap) -> BTreeMap<NodeKey, Vec<u32>> {
    let mut numbers = TagNumbers::default();
    let tagged = map.tagged().map(|(key, tags)| (key, numbers.of(tags)));
    tagged.collect()
}
