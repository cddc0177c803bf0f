#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    crd::{PeerRelay, RelayNode},
    operator::{fixtures, status::status, view::ClusterView},
};

/// Status, reason and message of `GrantsInForce` of a PeerRelay with these clients, whose relay
/// reports that a device of each may use it. `stored` is the status before.
fn told(clients: &[&str], stored: Value, policy: Value) -> (String, String) {
    let devices = json!({"known": 1, "granted": 1});
    let reported = clients
        .iter()
        .map(|client| json!({"client": client, "devices": devices}));
    let reported: Vec<_> = reported.collect();
    let node: RelayNode = serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": "edge-office-1", "namespace": "relays"},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        "status": {"ready": true, "version": "1", "dataPath": "Socket", "grant": {
            "rules": 1, "knownPeers": 1, "everyone": false, "clients": reported,
            "sources": [{"tags": ["tag:office"], "peers": 1}],
        }},
    }))
    .unwrap();
    let spec = json!({
        "grants": {"sync": "Apply", "oauth": {"secretName": "policy"}},
        "regions": [{"name": "office", "clients": clients}],
    });
    let mut relay: PeerRelay = fixtures::relay(spec.clone());
    relay.status = Some(serde_json::from_value(stored).unwrap());
    let view = ClusterView {
        reports: vec![Arc::new(node)],
        ..ClusterView::default()
    };
    let mut fixture = fixtures::planned_in(spec, &view);
    fixture.plan.policy.status = Some(serde_json::from_value(policy).unwrap());
    let now = "2026-06-30T00:00:00Z".parse().unwrap();
    let status = status(&relay, &view, fixture.outcome(), now);
    let condition = status
        .conditions
        .iter()
        .find(|c| c.type_ == "GrantsInForce");
    let condition = condition.unwrap();
    let state = format!("{}/{}", condition.status, condition.reason);
    (state, condition.message.clone())
}

fn empty() -> Value {
    json!({"observedGeneration": 1, "relays": "1/1"})
}

#[test]
fn an_effective_grant_without_findings_has_no_review() {
    let (state, message) = told(&["tag:office"], empty(), json!({}));
    assert_eq!(state, "True/GrantsEffective");
    assert_eq!(
        message,
        "region office of relays/edge: 1 devices may use the relays"
    );
}

#[test]
fn findings_about_the_policy_and_the_clients_are_told_with_the_effective_grant() {
    let used = json!({"observedGeneration": 1, "relays": "1/1", "regions": [{
        "name": "office", "tag": "tag:relay-office", "desired": 1, "ready": 1, "grantedPeers": 1,
        "clients": [{"client": "*", "countedSince": "2026-01-01T00:00:00Z"}],
    }]});
    let policy = json!({"findings": [
        {"line": 7, "kind": "wildcard-destination", "message": "name the tag"},
    ]});
    let (state, message) = told(&["*"], used, policy);
    assert_eq!(state, "True/GrantsEffective");
    for part in [
        "1 devices may use the relays; review: policy line 7: wildcard-destination: name the tag; ",
        "wide-region: region office of relays/edge: the client '*' allows every device",
        "unused-client: region office of relays/edge: no device of * has used relays",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
