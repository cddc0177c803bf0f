#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::{crd::RelayNode, operator::fixtures};

/// Reason and message of the condition. Each key is that of one relay.
fn told(keys: &[Option<&str>], api_key: Option<&str>) -> Option<(String, String)> {
    let node = |(at, expiry): (usize, &Option<&str>)| -> Arc<RelayNode> {
        let tailnet = json!({"name": "edge", "nodeID": "n1", "keyExpiry": expiry});
        let node = json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": format!("edge-{at}"), "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": "1", "dataPath": "Socket", "tailnet": tailnet},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    };
    let view = ClusterView {
        reports: keys.iter().enumerate().map(node).collect(),
        ..ClusterView::default()
    };
    let grants = json!({"sync": "Propose", "apiKey": {"secretName": "headscale"}});
    let tailnet = json!({
        "authKey": {"secretName": "a"}, "controlURL": "https://headscale.example.net",
    });
    let spec = json!({"grants": grants, "tailnet": tailnet});
    let mut fixture = fixtures::planned_in(spec, &view);
    let status = json!({"credentialExpires": api_key});
    fixture.plan.policy.status = Some(serde_json::from_value(status).unwrap());
    let pass = Pass {
        spec: &fixture.spec,
        plan: &fixture.plan,
        objects: &fixture.applied,
    };
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    let update = update(pass, &view, now)?;
    assert_eq!((update.kind, update.status), ("CredentialExpiring", "True"));
    Some((update.reason, update.message))
}

#[test]
fn node_keys_and_the_api_key_are_told_two_weeks_before() {
    let later = Some("2026-06-15T00:00:01Z");
    assert_eq!(told(&[None, later], later), None);

    let keys = [
        Some("2026-06-15T00:00:00Z"),
        None,
        Some("2026-05-31T00:00:00Z"),
    ];
    let (reason, message) = told(&keys, later).unwrap();
    assert_eq!(reason, "NodeKeyExpiring");
    assert!(
        message.contains("edge-2 (2026-05-31), edge-0 (2026-06-15);"),
        "{message}"
    );

    let (reason, message) = told(&[], Some("2026-06-10T00:00:00Z")).unwrap();
    assert_eq!(reason, "APIKeyExpiring");
    assert!(
        message.contains("Secret headscale expires on 2026-06-10"),
        "{message}"
    );

    let (reason, message) = told(&keys, Some("2026-06-10T00:00:00Z")).unwrap();
    assert_eq!(reason, "NodeKeyExpiring");
    assert!(
        message.contains("edge-0") && message.contains("headscale"),
        "{message}"
    );
}

#[test]
fn many_relays_are_counted() {
    let keys = [Some("2026-06-10T00:00:00Z"); 9];
    let (_, message) = told(&keys, None).unwrap();
    assert!(
        message.contains("edge-4 (2026-06-10) and 4 more relays"),
        "{message}"
    );
}
