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
        (&["tag:office"], json!([])),
    ] {
        let (state, message) = judged(clients, json!({"rules": 1, "sources": sources}));
        assert_eq!(state, GrantState::Effective, "{clients:?}: {message}");
    }
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
    assert_eq!(
        judge(&grant, [node(report)].iter()).state,
        GrantState::Effective
    );
}

#[test]
fn the_worst_relay_and_the_worst_region_count() {
    let good = node(json!({"rules": 1, "sources": [{"tags": ["tag:office"], "peers": 1}]}));
    let bad = node(json!({"rules": 0}));
    let grant = grant(&["tag:office"]);
    assert_eq!(
        judge(&grant, [good.clone(), bad].iter()).state,
        GrantState::Missing
    );
    let effective = judge(&grant, [good].iter());
    let unknown = judge(&grant, [].iter());
    assert_eq!(condition(&[effective, unknown]).reason, NOT_REPORTED);
    let effective = judge(&grant, [node(json!({"rules": 1}))].iter());
    assert_eq!(
        (condition(&[effective]).status, condition(&[]).status),
        ("True", "Unknown")
    );
}

fn judged(clients: &[&str], report: Value) -> (GrantState, String) {
    let verdict = judge(&grant(clients), [node(report)].iter());
    (verdict.state, verdict.sentence)
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
