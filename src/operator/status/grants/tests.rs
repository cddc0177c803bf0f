#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use super::*;
use crate::operator::fixtures;

#[test]
fn no_rule_is_missing_and_the_line_is_given() {
    let (state, message) = judged(&["tag:office"], json!({"rules": 0, "sources": []}));
    assert_eq!(state, GrantState::Missing);
    let line =
        r#"{"src":["tag:office"],"dst":["tag:relay-office"],"app":{"tailscale.com/cap/relay":[]}}"#;
    assert!(message.contains(line), "{message}");
    assert!(message.contains("neither acls nor grants"), "{message}");
}

#[test]
fn named_clients_and_nobody_else_are_effective() {
    let office = json!({"tags": ["tag:eu", "tag:office"], "peers": 2});
    let user = json!({"peers": 3});
    for (clients, sources) in [
        (&["tag:office"][..], json!([office])),
        (&["tag:office", "group:eng"], json!([office, user])),
        (&["alice@example.com"], json!([user])),
        (&["my-server"], json!([office, user])),
    ] {
        let (state, message) = judged(clients, json!({"rules": 1, "sources": sources}));
        assert_eq!(state, GrantState::Effective, "{clients:?}: {message}");
    }
}

#[test]
fn every_client_that_relays_can_tell_needs_a_device_that_may() {
    let office = json!({"tags": ["tag:office"], "peers": 2});
    let lab = |devices: Value| {
        let office = json!({"client": "tag:office", "devices": {"known": 2, "granted": 2}});
        json!({"rules": 1, "sources": [office_source()], "clients": [office,
            {"client": "tag:lab", "devices": devices}]})
    };
    let clients = &["tag:office", "tag:lab", "group:eng"][..];
    for (devices, state, said) in [
        (
            json!({"known": 1, "granted": 0}),
            GrantState::Incomplete,
            "devices of tag:lab are",
        ),
        (
            json!({"known": 0, "granted": 0}),
            GrantState::Unseen,
            "no device of tag:lab",
        ),
        (Value::Null, GrantState::Unknown, "whether tag:lab may"),
        (
            json!({"known": 9, "granted": 1}),
            GrantState::Effective,
            "devices of group:eng are",
        ),
    ] {
        let (found, message) = judged(clients, lab(devices));
        assert_eq!(found, state, "{message}");
        assert!(message.contains(said), "{message}");
    }
    let nobody = json!({"rules": 1, "sources": []});
    assert_eq!(judged(&["group:eng"], nobody).0, GrantState::Unseen);
    let somebody = json!({"rules": 1, "sources": [office]});
    assert_eq!(judged(&["my-server"], somebody).0, GrantState::Effective);
}

#[test]
fn the_relays_tag_on_other_devices_is_told_unless_they_relay_for_themselves() {
    let report = json!({"rules": 1, "sources": [office_source()], "taggedOthers": 3});
    let (state, message) = judged(&["tag:office"], report.clone());
    assert_eq!(state, GrantState::TagShared);
    assert!(
        message.contains("3 devices have tag:relay-office"),
        "{message}"
    );
    let mut grant = grant(&["tag:office"]);
    grant.self_relay = true;
    let report = report_of(&["tag:office"], report);
    let verdict = judge(&grant, [node(report)].iter());
    assert_eq!(verdict.state, GrantState::Effective);
}

#[test]
fn many_clients_without_a_device_are_counted() {
    let clients: Vec<_> = (0..9).map(|n| format!("tag:a{n}")).collect();
    let clients: Vec<_> = clients.iter().map(String::as_str).collect();
    let none = |client: &&str| json!({"client": client, "devices": {"known": 0, "granted": 0}});
    let reports: Vec<_> = clients.iter().map(none).collect();
    let (state, message) = judged(&clients, json!({"rules": 1, "clients": reports}));
    assert_eq!(state, GrantState::Unseen);
    assert!(message.contains("tag:a4 and 4 more"), "{message}");
}

#[test]
fn everyone_and_strangers_are_too_many_unless_everyone_is_named() {
    let office = json!({"tags": ["tag:office"], "peers": 1});
    let other = json!({"tags": ["tag:other"], "peers": 1});
    for (clients, report, who) in [
        (
            &["tag:office"][..],
            json!({"rules": 1, "everyone": true, "sources": [office]}),
            "every device",
        ),
        (
            &["my-server"],
            json!({"rules": 1, "everyone": true, "sources": []}),
            "every device",
        ),
        (
            &["tag:office"],
            json!({"rules": 2, "sources": [office, other]}),
            "1 devices with tag:other",
        ),
        (
            &["tag:office"],
            json!({"rules": 1, "sources": [office, {"peers": 4}]}),
            "4 devices of users",
        ),
    ] {
        let (state, message) = judged(clients, report);
        assert_eq!(state, GrantState::TooBroad, "{clients:?}");
        assert!(message.contains(who), "{message}");
    }
    let (state, _) = judged(
        &["*"],
        json!({"rules": 1, "everyone": true, "sources": [other]}),
    );
    assert_eq!(state, GrantState::Effective);
}

#[test]
fn own_tag_is_no_stranger_when_relays_relay_for_themselves() {
    let report = json!({"rules": 1, "sources": [{"tags": ["tag:relay-office"], "peers": 1}]});
    assert_eq!(
        judged(&["tag:office"], report.clone()).0,
        GrantState::TooBroad
    );
    let mut grant = grant(&["tag:office"]);
    grant.self_relay = true;
    let report = report_of(&["tag:office"], report);
    assert_eq!(
        judge(&grant, [node(report)].iter()).state,
        GrantState::Effective
    );
}

#[test]
fn the_worst_relay_and_the_worst_region_count() {
    let report = json!({"rules": 1, "sources": [office_source()]});
    let good = node(report_of(&["tag:office"], report));
    let bad = node(json!({"rules": 0}));
    let grant = grant(&["tag:office"]);
    assert_eq!(
        judge(&grant, [good.clone(), bad].iter()).state,
        GrantState::Missing
    );
    let effective = judge(&grant, [good.clone()].iter());
    let unknown = judge(&grant, [].iter());
    assert_eq!(condition(&[effective, unknown], &[]).reason, NOT_REPORTED);
    let effective = judge(&grant, [good].iter());
    assert_eq!(
        (
            condition(&[effective], &[]).status,
            condition(&[], &[]).status
        ),
        ("True", "Unknown")
    );
}

fn judged(clients: &[&str], report: Value) -> (GrantState, String) {
    let report = report_of(clients, report);
    let verdict = judge(&grant(clients), [node(report)].iter());
    (verdict.state, verdict.sentence)
}

/// A report that says of each client that it has a device that may use the relay, unless `report`
/// says something of them.
fn report_of(clients: &[&str], mut report: Value) -> Value {
    if report["clients"].is_null() {
        let client =
            |client: &&str| json!({"client": client, "devices": {"known": 1, "granted": 1}});
        report["clients"] = clients.iter().map(client).collect();
    }
    report
}

fn office_source() -> Value {
    json!({"tags": ["tag:office"], "peers": 1})
}

fn grant(clients: &[&str]) -> RegionGrant {
    let regions = json!([{"name": "office", "clients": clients}]);
    fixtures::validated(json!({"regions": regions})).regions[0]
        .grant
        .clone()
}

fn node(mut report: Value) -> RelayNode {
    for (field, value) in [("knownPeers", json!(9)), ("everyone", json!(false))] {
        if report[field].is_null() {
            report[field] = value;
        }
    }
    serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": "edge-office-1", "namespace": "relays"},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        "status": {"ready": true, "version": "1", "dataPath": "Socket", "grant": report},
    }))
    .unwrap()
}
