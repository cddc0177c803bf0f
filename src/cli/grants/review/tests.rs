#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::fs;

use clap::Parser;
use kube::ResourceExt;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    crd::PeerRelay,
    operator::{defaults::Defaults, referred_credential::Referred, validate::validate},
};

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    review: ReviewArgs,
}

#[test]
fn findings_have_an_exit_code_of_their_own() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("policy.hujson");
    let run = |policy: &str| {
        fs::write(&path, policy).unwrap();
        let words = ["review", path.to_str().unwrap(), "-o", "json"];
        Program::parse_from(words).review.run()
    };
    assert_eq!(run("{\"acls\": []}").unwrap(), ExitCode::SUCCESS);
    assert_eq!(run("{}").unwrap(), ExitCode::from(3));
    let error = run("{\n  \"acls\": [}").unwrap_err().to_string();
    assert!(error.contains("policy.hujson:2:"), "{error}");
}

#[test]
fn a_context_may_have_no_name() {
    let parse = |words: &[&str]| {
        let words = ["review", "policy.hujson"]
            .into_iter()
            .chain(words.iter().copied());
        Program::try_parse_from(words).map(|program| program.review.source)
    };
    assert!(parse(&["--context"]).unwrap().is_given());
    assert!(
        parse(&["--context", "lab", "-n", "relays"])
            .unwrap()
            .is_given()
    );
    assert!(!parse(&[]).unwrap().is_given());
    assert!(parse(&["--context", "-f", "relay.yaml"]).is_err());
    assert!(parse(&["-n", "relays"]).is_err());
}

#[test]
fn more_relays_than_a_tailnet_allows_are_found() {
    let one = found("one", &json!({"maxRelays": 1}), None);
    assert_eq!(over_quota(&[one]), [""; 0]);
    let two = || found("two", &json!({"maxRelays": 1}), None);
    let both = over_quota(&[found("one", &json!({"maxRelays": 1}), None), two()]);
    assert_eq!(both.len(), 1, "{both:?}");
    assert!(
        both[0].starts_with("the PeerRelays one, two of namespace relays"),
        "{both:?}"
    );
    let elsewhere = json!({"tailnet": {
        "authKey": {"secretName": "a"}, "controlURL": "https://control.example.net",
    }});
    assert_eq!(
        over_quota(&[two(), found("three", &elsewhere, None)]),
        [""; 0]
    );

    let same = json!({"maxRelays": 1, "tailnet": {
        "authKey": {"secretName": "a"}, "controlURL": "https://login.tailscale.com/",
    }});
    let both = over_quota(&[two(), found("three", &same, None)]);
    assert_eq!(
        both.len(),
        1,
        "one control server has several URLs: {both:?}"
    );

    let regions = json!({"maxRelays": 1, "regions": [
        {"name": "eu", "clients": ["tag:a"]}, {"name": "us", "clients": ["tag:a"]},
    ]});
    let shared = over_quota(&[found("one", &regions, None)]);
    assert!(
        shared[0].contains("2 regions share at most 1 relays"),
        "{shared:?}"
    );

    let status = json!({"conditions": [{
        "type": "WithinQuota", "status": "False", "reason": "AllowanceExceeded",
        "message": "3 relays, at most 2 in total", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    let known = over_quota(&[found("one", &json!({}), Some(&status))]);
    assert_eq!(
        known,
        ["PeerRelay relays/one: 3 relays, at most 2 in total"]
    );
}

#[test]
fn the_status_of_a_region_tells_the_use_of_its_clients() {
    let status = json!({"regions": [{
        "name": "office", "tag": "tag:relay-office", "desired": 1, "ready": 1, "grantedPeers": 0,
        "grant": "TagShared",
        "clients": [{"client": "tag:office", "devices": 0}, {"client": "tag:former", "devices": 1}],
    }]});
    let found = found("one", &json!({}), Some(&status));
    let regions: Vec<_> = regions(&found).collect();
    assert!(regions[0].tag_on_others);
    assert_eq!(regions[0].clients.len(), 1);
    assert_eq!(regions[0].clients[0].devices, Some(0));
}

fn found(name: &str, spec: &serde_json::Value, status: Option<&serde_json::Value>) -> Found {
    let mut whole = json!({
        "tailnet": {"authKey": {"secretName": "a"}},
        "regions": [{"name": "office", "clients": ["tag:office"]}],
    });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let object = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "PeerRelay",
        "metadata": {"name": name, "namespace": "relays", "uid": "1"},
        "spec": whole, "status": status.cloned().unwrap_or_else(|| json!({})),
    });
    let relay: PeerRelay = serde_json::from_value(object).unwrap();
    assert_eq!(relay.name_any(), name);
    Found {
        spec: validate(&relay, &Referred::Unknown, &Defaults::default()).unwrap(),
        status: relay.status,
    }
}
