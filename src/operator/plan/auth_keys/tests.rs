#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use std::sync::Arc;

use super::*;
use crate::{
    config::issued_keys::IssuedKey,
    operator::{
        credential::{CredentialProblem, Issuing},
        fixtures::{self, Fixture},
    },
};

/// Public key of a request.
fn request(letter: char) -> String {
    letter.to_string().repeat(REQUEST_LEN)
}

fn oauth() -> Value {
    json!({"tailnet": {"oauth": {"secretName": "tailnet-oauth"}}})
}

fn pod(name: &str, region: &str) -> Arc<Pod> {
    let labels = json!({names::REGION_LABEL: region, names::PEER_RELAY_LABEL: "edge"});
    let pod = json!({"metadata": {
        "name": name, "namespace": "relays", "uid": format!("uid-{name}"), "labels": labels,
    }});
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn report(name: &str, request: Option<&str>) -> Arc<RelayNode> {
    let owner =
        json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": format!("uid-{name}")});
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": name, "namespace": "relays", "ownerReferences": [owner]},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        "status": {
            "ready": false, "version": "1", "dataPath": "Socket", "authKeyRequest": request,
        },
    });
    Arc::new(serde_json::from_value(report).unwrap())
}

fn view(relays: &[(&str, Option<&str>)]) -> ClusterView {
    ClusterView {
        own_pods: relays.iter().map(|(name, _)| pod(name, "office")).collect(),
        reports: relays
            .iter()
            .map(|(name, request)| report(name, *request))
            .collect(),
        ..ClusterView::default()
    }
}

fn issued(relay: &str, request: &str) -> IssuedKeys {
    let key = IssuedKey {
        request: request.to_owned(),
        sealed: "00".into(),
    };
    IssuedKeys(BTreeMap::from([(relay.to_owned(), key)]))
}

fn keys(fixture: &Fixture) -> (Vec<&str>, Vec<&str>) {
    let keys = &fixture.plan.regions[0].keys;
    let wanted = keys.wanted.iter().map(|wanted| &*wanted.relay);
    let issued = keys.issued.0.keys().map(|relay| &**relay);
    (wanted.collect(), issued.collect())
}

#[test]
fn a_key_is_wanted_for_each_relay_that_requests_one() {
    let a = request('a');
    let view = view(&[
        ("edge-1", Some(&a)),
        ("edge-2", None),
        ("edge-3", Some("no key")),
    ]);
    let fixture = fixtures::planned_in(oauth(), &view);
    assert_eq!(keys(&fixture), (vec!["edge-1"], vec![]));
    let wanted = &fixture.plan.regions[0].keys.wanted[0];
    assert_eq!((&*wanted.tag, &*wanted.request), ("tag:relay-office", &*a));
    assert!(!wanted.ephemeral);
    let fixture = fixtures::planned_in(json!({}), &view);
    assert_eq!(keys(&fixture), (vec![], vec![]), "relays have an auth key");
}

#[test]
fn a_created_key_is_stored_until_its_relay_no_longer_requests_it() {
    let (a, b) = (request('a'), request('b'));
    let mut seen = view(&[("edge-1", Some(&a))]);
    seen.issuing.issued = issued("edge-1", &a);
    let fixture = fixtures::planned_in(oauth(), &seen);
    assert_eq!(keys(&fixture), (vec![], vec!["edge-1"]));
    // The next operator finds the key in the ConfigMap.
    let map = fixture.build().config_maps.into_iter();
    let map = map.filter(|map| map.name_any() == "edge-office");
    let maps: Vec<_> = map.map(Arc::new).collect();
    for (request, expected) in [
        (Some(&a), (vec![], vec!["edge-1"])),
        (Some(&b), (vec!["edge-1"], vec![])),
        (None, (vec![], vec![])),
    ] {
        let seen = ClusterView {
            config_maps: maps.clone(),
            ..view(&[("edge-1", request.map(|request| &**request))])
        };
        assert_eq!(keys(&fixtures::planned_in(oauth(), &seen)), expected);
    }
    let gone = ClusterView {
        config_maps: maps,
        ..ClusterView::default()
    };
    assert_eq!(
        keys(&fixtures::planned_in(oauth(), &gone)),
        (vec![], vec![])
    );
}

#[test]
fn a_report_that_is_not_of_a_pod_of_the_region_gets_no_key() {
    let a = request('a');
    let mut seen = view(&[("edge-1", Some(&a))]);
    for pods in [
        vec![],
        vec![pod("edge-1", "lab")],
        vec![pod("edge-2", "office")],
    ] {
        seen.own_pods = pods;
        let fixture = fixtures::planned_in(oauth(), &seen);
        assert_eq!(keys(&fixture), (vec![], vec![]));
    }
}

#[test]
fn relays_are_not_replaced_for_their_keys_and_mount_no_secret() {
    let a = request('a');
    let mut seen = view(&[("edge-1", Some(&a))]);
    let before = fixtures::planned_in(oauth(), &seen).build();
    seen.issuing.issued = issued("edge-1", &a);
    let after = fixtures::planned_in(oauth(), &seen).build();
    assert_eq!(before.daemon_sets, after.daemon_sets);
    assert_ne!(before.config_maps, after.config_maps);
    let set = serde_json::to_string(&after.daemon_sets).unwrap();
    assert!(!set.contains("secretName"), "{set}");
    let config = &after.config_maps[0].data.as_ref().unwrap()["relay.yaml"];
    assert!(config.contains("requestAuthKey: true"), "{config}");
    assert!(!config.contains("authKeyFile"), "{config}");
}

#[test]
fn a_credential_that_fails_is_a_condition_while_a_relay_waits() {
    let a = request('a');
    let mut seen = view(&[("edge-1", Some(&a))]);
    let problem = CredentialProblem {
        reason: "TagsRefused",
        message: r#"add "tag:relay-office": ["tag:op"]"#.into(),
        needs_user: true,
    };
    seen.issuing = Issuing {
        last: Some(Err(problem)),
        ..Issuing::default()
    };
    let conditions = |view: &ClusterView, old: Option<Value>| {
        let fixture = fixtures::planned_in(oauth(), view);
        let mut relay = fixtures::relay(oauth());
        relay.status = old.map(|old| serde_json::from_value(json!({"conditions": [old]})).unwrap());
        let now = k8s_openapi::jiff::Timestamp::UNIX_EPOCH;
        let status = crate::operator::status::status(&relay, view, fixture.outcome(), now);
        let all = status.conditions.into_iter();
        let of = ["Ready", "Stalled", "CredentialAccepted"];
        all.filter(|condition| of.contains(&&*condition.type_))
            .map(|condition| {
                format!(
                    "{}={}/{}",
                    condition.type_, condition.status, condition.reason
                )
            })
            .collect::<Vec<_>>()
    };
    let failed = conditions(&seen, None);
    assert_eq!(
        failed,
        [
            "Ready=False/TagsRefused",
            "Stalled=True/TagsRefused",
            "CredentialAccepted=False/TagsRefused",
        ]
    );
    seen.reports = vec![report("edge-1", None)];
    let settled = conditions(&seen, None);
    assert!(
        !settled.concat().contains("CredentialAccepted"),
        "{settled:?}"
    );
    seen.issuing.last = Some(Ok(()));
    let accepted = "CredentialAccepted=True/KeysCreated".to_owned();
    assert!(conditions(&seen, None).contains(&accepted));
    // The next operator has made no attempt.
    seen.issuing.last = None;
    let old = json!({
        "type": "CredentialAccepted", "status": "True", "reason": "KeysCreated", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    assert!(conditions(&seen, Some(old)).contains(&accepted));
}
