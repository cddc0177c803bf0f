#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    crd::{PeerRelayStatus, grants::PolicyStatus},
    operator::{
        devices::Deleting,
        fixtures,
        referred_credential::{self, Referred},
    },
};

fn device(id: &str, node: &str) -> RelayDevice {
    RelayDevice {
        node_id: id.into(),
        node: node.into(),
        region: "office".into(),
        tag: "tag:relay-office".into(),
        ..RelayDevice::default()
    }
}

/// A PeerRelay whose deletion began at second 100, with its view.
fn deleted(tailnet: &Value, devices: &[RelayDevice]) -> (PeerRelay, ClusterView) {
    let mut relay = fixtures::relay(json!({"tailnet": tailnet}));
    let meta = json!({
        "name": "edge", "namespace": "relays", "uid": "u-1",
        "deletionTimestamp": "1970-01-01T00:01:40Z", "finalizers": [names::FINALIZER],
    });
    relay.metadata = serde_json::from_value(meta).unwrap();
    relay.status = Some(PeerRelayStatus {
        devices: devices.to_vec(),
        ..PeerRelayStatus::default()
    });
    let view = ClusterView {
        devices: devices.to_vec(),
        ..ClusterView::default()
    };
    (relay, view)
}

fn left(devices: Vec<RelayDevice>, has_entries: bool) -> Left {
    Left {
        devices,
        has_entries,
    }
}

fn next_at(relay: &PeerRelay, view: &ClusterView, second: i64) -> Step {
    next(relay, view, Timestamp::from_second(second).unwrap())
}

fn deletion(step: Step) -> Deletion {
    match step {
        Step::Delete(deletion) => *deletion,
        Step::End(left) => panic!("the deletion ends with {left:?}"),
    }
}

#[test]
fn devices_are_deleted_after_their_pods_and_until_the_deadline() {
    let oauth = json!({"oauth": {"secretName": "s"}});
    let devices = [device("nA", "n1"), device("nB", "n2")];
    let (relay, mut view) = deleted(&oauth, &devices);
    let pod = json!({
        "metadata": {"name": "p", "labels": {names::REGION_LABEL: "office"}},
        "spec": {"nodeName": "n2", "containers": []},
    });
    view.own_pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
    let found = deletion(next_at(&relay, &view, 100));
    assert_eq!(found.due, devices[..1]);
    assert_eq!(found.recorded, devices);
    assert_eq!(found.deadline.as_second(), 220);
    assert_eq!(
        next_at(&relay, &view, 220),
        Step::End(left(devices.to_vec(), false))
    );
    view.own_pods.clear();
    assert_eq!(deletion(next_at(&relay, &view, 101)).due, devices);
    view.deleting = Deleting {
        done: ["nA".to_owned(), "nB".to_owned()].into(),
        problem: None,
    };
    assert_eq!(next_at(&relay, &view, 102), Step::End(Left::default()));
}

#[test]
fn nothing_is_deleted_if_devices_or_relays_are_to_stay() {
    let devices = [device("nA", "n1")];
    for tailnet in [
        json!({"authKey": {"secretName": "s"}}),
        json!({"oauth": {"secretName": "s"}, "deletionPolicy": "Retain"}),
    ] {
        let (relay, view) = deleted(&tailnet, &devices);
        assert_eq!(next_at(&relay, &view, 100), Step::End(Left::default()));
    }
    let (mut relay, view) = deleted(&json!({"oauth": {"secretName": "s"}}), &devices);
    relay.finalizers_mut().push(ORPHAN.into());
    assert_eq!(next_at(&relay, &view, 100), Step::End(Left::default()));
}

#[test]
fn entries_are_removed_with_the_credential_of_the_policy_until_the_deadline() {
    let tailnet = json!({"authKey": {"secretName": "s"}});
    let at = |sync: &str, has_entries, is_removed, second| {
        let (mut relay, mut view) = deleted(&tailnet, &[]);
        let grants = json!({"sync": sync, "oauth": {"secretName": "policy"}});
        relay.spec.grants = serde_json::from_value(grants).unwrap();
        view.policy = Some(PolicyStatus {
            has_entries,
            ..PolicyStatus::default()
        });
        view.syncing.is_removed = is_removed;
        next_at(&relay, &view, second)
    };
    let found = deletion(at("Apply", true, false, 100));
    assert!(found.policy.is_some());
    assert_eq!((found.credential, found.due), (None, Vec::new()));
    assert_eq!(found.deadline.as_second(), 220);
    assert_eq!(
        at("Apply", true, false, 220),
        Step::End(left(Vec::new(), true))
    );
    for end in [
        at("Apply", true, true, 101),
        at("Apply", false, false, 100),
        at("Off", true, false, 100),
        at("Propose", true, false, 100),
    ] {
        assert_eq!(end, Step::End(Left::default()));
    }
}

#[test]
fn a_deletion_ends_at_the_deadline_without_its_tailnet_credential() {
    let reference = json!({"credentialsRef": {"name": "acme"}});
    let devices = [device("nA", "n1")];
    let (relay, mut view) = deleted(&reference, &devices);
    let allows = |namespace: &str| {
        let spec = json!({"oauth": {"secretName": "s"}, "allowedNamespaces": [namespace]});
        Referred::Found(Arc::new(fixtures::tailnet_credential(&spec)))
    };
    for (referred, reason) in [
        (Referred::Missing, Some(referred_credential::MISSING)),
        (allows("other"), Some(referred_credential::NOT_ALLOWED)),
        (allows("relays"), None),
    ] {
        view.referred = referred;
        let found = deletion(next_at(&relay, &view, 100));
        assert_eq!(found.due, devices);
        let error = found.credential.and_then(Result::err);
        assert_eq!(error.map(|error| error.reason()), reason);
        assert_eq!(
            next_at(&relay, &view, 220),
            Step::End(left(devices.to_vec(), false))
        );
    }
    let retained = json!({"credentialsRef": {"name": "acme"}, "deletionPolicy": "Retain"});
    let (relay, mut view) = deleted(&retained, &devices);
    view.referred = Referred::Missing;
    assert_eq!(next_at(&relay, &view, 100), Step::End(Left::default()));
}
