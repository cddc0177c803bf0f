#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::ResourceExt;

use serde_json::{Value, json};

use super::*;
use crate::crd::RelayNode;
use crate::names;
use crate::operator::{
    fixtures::{self, Fixture},
    host_ports::{Holder, HostPort},
    refusal::Summary,
};

#[test]
fn ready_when_every_wanted_relay_is() {
    let status = compute(daemon_set(2, 2), vec![node(json!({"ready": true}))]);
    assert_eq!(
        conditions(&status),
        [
            "Ready=True/RelaysReady",
            "TailnetConnected=True/Connected",
            "RelaysAvailable=True/RelaysReady",
            "GrantsInForce=Unknown/GrantsNotReported",
        ]
    );
    assert_eq!(status.relays, "2/2");
    assert_eq!(status.observed_generation, 3);
}

#[test]
fn names_that_other_devices_have_are_told_and_fail_nothing() {
    let renamed = json!({"ready": true, "tailnet": {
        "name": "edge-n1-1.tail1.ts.net", "takenName": "edge-n1", "nodeID": "n1",
    }});
    let status = compute(daemon_set(1, 1), vec![node(renamed)]);
    let conditions = conditions(&status);
    assert_eq!(conditions[0], "Ready=True/RelaysReady");
    assert_eq!(conditions[1], "TailnetConnected=True/DeviceNameTaken");
    let message = &status.conditions[1].message;
    assert!(
        message.contains("edge-n1-1 instead of edge-n1"),
        "{message}"
    );
    assert_eq!(status.tailnet, "tail1.ts.net");
}

#[test]
fn starting_relays_are_reconciling() {
    let status = compute(daemon_set(2, 1), vec![]);
    assert_eq!(
        conditions(&status),
        [
            "Ready=False/RelaysStarting",
            "Reconciling=True/RelaysStarting",
            "TailnetConnected=Unknown/NoReport",
            "RelaysAvailable=True/RelaysReady",
            "GrantsInForce=Unknown/GrantsNotReported",
        ]
    );
}

#[test]
fn what_only_the_user_can_solve_stalls() {
    let refused = node(json!({"ready": false, "reason": "AuthKeyInvalid", "message": "new key"}));
    let passing = node(json!({"ready": false, "reason": "DerpUnreachable", "message": "wait"}));
    let status = compute(daemon_set(2, 0), vec![passing.clone(), refused]);
    assert_eq!(
        conditions(&status),
        [
            "Ready=False/AuthKeyInvalid",
            "Stalled=True/AuthKeyInvalid",
            "TailnetConnected=False/AuthKeyInvalid",
            "RelaysAvailable=False/NoRelayReady",
            "GrantsInForce=Unknown/GrantsNotReported",
        ]
    );
    assert_eq!(status.conditions[0].message, "1 relay(s): new key");
    let status = compute(daemon_set(2, 0), vec![passing]);
    assert!(conditions(&status).contains(&"Reconciling=True/RelaysStarting".to_owned()));
}

#[test]
fn no_node_that_fits_is_said() {
    let status = compute(daemon_set(0, 0), vec![]);
    assert_eq!(conditions(&status)[0], "Ready=False/NoNodes");
}

#[test]
fn a_region_without_a_relay_is_never_ready_and_is_named() {
    let region = |name: &str| json!({"name": name, "clients": ["tag:office"]});
    let spec = json!({"regions": [region("office"), region("lab")]});
    let lab = json!({
        "metadata": {"name": "edge-lab", "generation": 1},
        "status": daemon_set(0, 0).status.unwrap(),
    });
    let mut validated = fixtures::undecided(spec.clone());
    let seen = ClusterView {
        daemon_sets: vec![
            Arc::new(daemon_set(2, 2)),
            Arc::new(serde_json::from_value(lab).unwrap()),
        ],
        reports: vec![Arc::new(node(json!({"ready": true})))],
        ..ClusterView::default()
    };
    let relay = fixtures::relay(spec);
    let compute = |validated: &Fixture| status(&relay, &seen, validated.outcome(), now());
    let vacant = compute(&validated);
    assert_eq!(conditions(&vacant)[0], "Ready=False/NoNodes");
    let message = &vacant.conditions[0].message;
    assert!(message.starts_with("no relay in region lab: "), "{message}");
    for (plan, reason) in [
        (json!({"fitting": 2}), "NodesTaken"),
        (json!({"fitting": 2, "excess": ["n2"]}), "AllowanceExceeded"),
        (json!({"fitting": 2, "awaited": ["n2"]}), "RelaysStarting"),
    ] {
        let nodes = |key: &str| plan[key].as_array().map_or(0, Vec::len);
        let lab = &mut validated.plan.regions[1].nodes;
        lab.chosen = Some(vec![]);
        lab.fitting = 2;
        lab.excess = vec!["n2".into(); nodes("excess")];
        lab.awaited = vec!["n2".into(); nodes("awaited")];
        let vacant = compute(&validated);
        let found = conditions(&vacant);
        assert_eq!(found[0], format!("Ready=False/{reason}"));
        let moves = found.contains(&"Reconciling=True/RelaysStarting".into());
        assert_eq!(moves, reason == "RelaysStarting");
        assert!(found.contains(&"RelaysAvailable=True/RelaysReady".into()));
    }
}

#[test]
fn relays_are_not_ready_while_the_stores_may_lag_behind_a_change() {
    let mut validated = fixtures::undecided(json!({}));
    let set = daemon_set(2, 2);
    validated.applied.stage.changed_sets = [set.name_any()].into();
    let seen = ClusterView {
        daemon_sets: vec![Arc::new(set)],
        ..ClusterView::default()
    };
    let relay = fixtures::relay(json!({}));
    let status = status(&relay, &seen, validated.outcome(), now());
    assert_eq!(conditions(&status)[0], "Ready=False/RelaysStarting");
}

#[test]
fn a_roll_out_that_waits_is_not_ready_and_says_for_whom() {
    let mut validated = fixtures::undecided(json!({}));
    let waits = "region office: 1 relay(s) wait to be replaced until the one on n1 is ready";
    validated.applied.deferred.message = Some(waits.into());
    let seen = ClusterView {
        daemon_sets: vec![Arc::new(daemon_set(2, 2))],
        ..ClusterView::default()
    };
    let relay = fixtures::relay(json!({}));
    let status = status(&relay, &seen, validated.outcome(), now());
    let said = [
        "Ready=False/RelaysStarting",
        "Reconciling=True/RelaysStarting",
    ];
    assert_eq!(conditions(&status)[..2], said);
    for condition in &status.conditions[..2] {
        assert_eq!(
            condition.message,
            format!("2 of 2 relays are ready; {waits}")
        );
    }
}

#[test]
fn a_vacancy_names_who_has_the_port() {
    let mut validated = fixtures::undecided(json!({}));
    let plan = &mut validated.plan.regions[0].nodes;
    plan.chosen = Some(vec![]);
    plan.fitting = 1;
    let holder = Holder {
        relay: "relays/rival".into(),
        pod: "rival-1".into(),
    };
    plan.conflict = Some(("n1".into(), HostPort::udp(40_000), holder));
    let relay = fixtures::relay(json!({}));
    let seen = ClusterView::default();
    let status = status(&relay, &seen, validated.outcome(), now());
    let said = [
        "Ready=False/HostPortConflict",
        "Stalled=True/HostPortConflict",
    ];
    assert_eq!(conditions(&status)[..2], said);
    let message = &status.conditions[1].message;
    assert!(
        message.contains("UDP port 40000 of node n1 has PeerRelay relays/rival"),
        "{message}"
    );
}

#[test]
fn paused_and_invalid_ones_say_what_serves() {
    let invalid = Outcome::Invalid {
        reason: "InvalidSpec",
        message: "rename",
    };
    let ready = node(json!({"ready": true, "sessions": {"open": 3, "connecting": 0}}));
    let before = compute(daemon_set(2, 2), vec![ready.clone()]);
    let mut relay = fixtures::relay(json!({}));
    relay.status = Some(before.clone());
    let mut set = daemon_set(2, 1);
    set.metadata.labels = Some(names::region_labels("edge", "office"));
    let seen = ClusterView {
        daemon_sets: vec![Arc::new(set)],
        reports: vec![Arc::new(ready)],
        ..ClusterView::default()
    };
    let serving = [
        "TailnetConnected=True/Connected",
        "RelaysAvailable=True/RelaysReady",
        "GrantsInForce=Unknown/GrantsNotReported",
    ];
    for (outcome, said) in [
        (Outcome::Paused, &["Ready=Unknown/Paused"][..]),
        (
            invalid,
            &["Ready=False/InvalidSpec", "Stalled=True/InvalidSpec"],
        ),
        (
            Outcome::Invalid {
                reason: "TailnetCredentialMissing",
                message: "create it",
            },
            &[
                "Ready=False/TailnetCredentialMissing",
                "Stalled=True/TailnetCredentialMissing",
                "CredentialAccepted=False/TailnetCredentialMissing",
            ],
        ),
    ] {
        let status = status(&relay, &seen, outcome, now());
        assert_eq!(conditions(&status), [said, &serving].concat());
        assert_eq!(status.relays, "1/2");
        assert_eq!(status.sessions, 3);
        assert_eq!(status.regions.len(), 1);
        assert_eq!(status.grants, before.grants);
        assert_eq!(
            status.conditions.len(),
            said.len() + before.conditions.len() - 1
        );
        relay.status = Some(status.clone());
        assert_eq!(super::status(&relay, &seen, outcome, now()), status);
        relay.status = Some(before.clone());
    }
}

#[test]
fn a_refusal_is_told_beside_what_serves() {
    let summary = |cause| Summary {
        cause,
        message: "failed to apply Service edge-office: no".into(),
    };
    let serving = [
        "TailnetConnected=True/Connected",
        "RelaysAvailable=True/RelaysReady",
        "GrantsInForce=Unknown/GrantsNotReported",
    ];
    for (cause, detail) in [
        (Cause::Rejected, "Stalled=True/ApplyRejected"),
        (Cause::NameTaken, "Stalled=True/NameTaken"),
        (Cause::Failed, "Reconciling=True/ApplyFailed"),
    ] {
        let summary = summary(cause);
        let nodes = vec![node(json!({"ready": true}))];
        let status = compute_refused(daemon_set(2, 2), nodes, &summary);
        let ready = format!("Ready=False/{}", cause.reason());
        let said = [&*ready, detail];
        assert_eq!(conditions(&status), [&said[..], &serving].concat());
        assert_eq!(status.conditions[0].message, summary.message);
        assert_eq!(status.relays, "2/2");
        assert_eq!(status.observed_generation, 3);
    }
    // What passes does not hide what needs the user.
    let refused = node(json!({"ready": false, "reason": "AuthKeyInvalid", "message": "new key"}));
    let passing = summary(Cause::Failed);
    let status = compute_refused(daemon_set(2, 0), vec![refused], &passing);
    assert_eq!(conditions(&status)[1], "Stalled=True/AuthKeyInvalid");
}

#[test]
fn a_pod_that_cannot_run_stalls_but_says_nothing_about_the_tailnet() {
    let relay = fixtures::relay(json!({}));
    let validated = fixtures::undecided(json!({}));
    let pods = |pods: Vec<Pod>| ClusterView {
        daemon_sets: vec![Arc::new(daemon_set(2, 1))],
        reports: vec![Arc::new(node(json!({"ready": true})))],
        own_pods: pods.into_iter().map(Arc::new).collect(),
        ..ClusterView::default()
    };
    let compute = |seen: &ClusterView| status(&relay, seen, validated.outcome(), now());
    let refused = compute(&pods(vec![pod("office", "ImagePullBackOff")]));
    assert_eq!(
        conditions(&refused),
        [
            "Ready=False/ImagePullFailed",
            "Stalled=True/ImagePullFailed",
            "TailnetConnected=True/Connected",
            "RelaysAvailable=True/RelaysReady",
            "GrantsInForce=Unknown/GrantsNotReported",
        ]
    );
    let crashing = compute(&pods(vec![pod("office", "CrashLoopBackOff")]));
    assert_eq!(
        conditions(&crashing)[..2],
        [
            "Ready=False/CrashLooping",
            "Reconciling=True/RelaysStarting"
        ]
    );
    let elsewhere = compute(&pods(vec![pod("spare", "ImagePullBackOff")]));
    assert_eq!(conditions(&elsewhere)[0], "Ready=False/RelaysStarting");
}

#[test]
fn pods_of_a_spec_that_was_just_mended_stall_nothing() {
    let relay = fixtures::relay(json!({}));
    let mut validated = fixtures::undecided(json!({}));
    let mut set = daemon_set(2, 1);
    set.metadata.generation = Some(2);
    let mut seen = ClusterView {
        daemon_sets: vec![Arc::new(set)],
        own_pods: vec![Arc::new(pod("office", "ImagePullBackOff"))],
        ..ClusterView::default()
    };
    let moving = [
        "Ready=False/RelaysStarting",
        "Reconciling=True/RelaysStarting",
    ];
    let compute =
        |validated: &Fixture, seen: &ClusterView| status(&relay, seen, validated.outcome(), now());
    assert_eq!(conditions(&compute(&validated, &seen))[..2], moving);
    seen.daemon_sets = vec![Arc::new(daemon_set(2, 1))];
    validated.applied.stage.changed_sets = ["edge-office".to_owned()].into();
    assert_eq!(conditions(&compute(&validated, &seen))[..2], moving);
    validated.applied.stage.changed_sets.clear();
    assert_eq!(
        conditions(&compute(&validated, &seen))[1],
        "Stalled=True/ImagePullFailed"
    );
}

#[test]
fn ten_thousand_relays_that_write_what_they_like_make_a_small_status() {
    let long = "x".repeat(10_000);
    let seen = ClusterView {
        daemon_sets: vec![Arc::new(daemon_set(10_000, 0))],
        reports: (0..10_000)
            .map(|index| {
                let mut node = node(json!({
                    "ready": false, "reason": format!("Reason{index}"), "message": long,
                    "endpoints": [{"address": long, "source": "Static"}],
                }));
                node.metadata.name = Some(format!("edge-office-{index}"));
                Arc::new(node)
            })
            .collect(),
        own_pods: (0..10_000)
            .map(|index| {
                let mut pod = pod("office", "CrashLoopBackOff");
                pod.metadata.name = Some(format!("edge-office-{index}"));
                Arc::new(pod)
            })
            .collect(),
        ..ClusterView::default()
    };
    let relay = fixtures::relay(json!({}));
    let validated = fixtures::undecided(json!({}));
    let status = status(&relay, &seen, validated.outcome(), now());
    let size = serde_json::to_vec(&status).unwrap().len();
    assert!(size < 8_192, "{size} bytes");
    let begins = "10000 relay(s): container relay ends";
    assert!(status.conditions[0].message.starts_with(begins));
}

#[test]
fn order_of_reports_makes_no_other_status() {
    let named = |name: &str| {
        let endpoint = json!([{"address": format!("{name}:40000"), "source": "Static"}]);
        let mut node = node(json!({"endpoints": endpoint}));
        node.metadata.name = Some(name.into());
        node
    };
    let there = compute(daemon_set(2, 2), vec![named("a"), named("b")]);
    let back = compute(daemon_set(2, 2), vec![named("b"), named("a")]);
    assert_eq!(there.endpoints, "a:40000,b:40000");
    assert_eq!(there, back);
}

#[test]
fn time_of_transition_stays_while_the_status_does() {
    let first = compute(daemon_set(1, 1), vec![]);
    let mut relay = fixtures::relay(json!({}));
    relay.status = Some(first.clone());
    let later = Timestamp::from_second(2_000_000_000).unwrap();
    let validated = fixtures::undecided(json!({}));
    let at = |set: DaemonSet| {
        let seen = ClusterView {
            daemon_sets: vec![Arc::new(set)],
            ..ClusterView::default()
        };
        status(&relay, &seen, validated.outcome(), later)
    };
    let second = at(daemon_set(1, 1));
    assert_eq!(first, second);
    let third = at(daemon_set(2, 1));
    assert_eq!(ready(&third).unwrap().last_transition_time, Time(later));
}

fn compute(set: DaemonSet, reports: Vec<RelayNode>) -> PeerRelayStatus {
    computed(set, reports, None)
}

fn compute_refused(set: DaemonSet, reports: Vec<RelayNode>, refused: &Summary) -> PeerRelayStatus {
    computed(set, reports, Some(refused.clone()))
}

fn computed(set: DaemonSet, reports: Vec<RelayNode>, refused: Option<Summary>) -> PeerRelayStatus {
    let relay = fixtures::relay(json!({}));
    let mut validated = fixtures::undecided(json!({}));
    validated.applied.stage.refused = refused;
    let seen = ClusterView {
        daemon_sets: vec![Arc::new(set)],
        reports: reports.into_iter().map(Arc::new).collect(),
        ..ClusterView::default()
    };
    status(&relay, &seen, validated.outcome(), now())
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn pod(region: &str, waiting: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "edge-office-1", "namespace": "relays",
            "labels": {"peerrelay.dev/peer-relay": "edge", "peerrelay.dev/region": region},
        },
        "status": {"containerStatuses": [{
            "name": "relay", "image": "example.test/relay:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": waiting}},
        }]},
    }))
    .unwrap()
}

fn daemon_set(desired: i32, ready: i32) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": {"name": "edge-office", "generation": 1},
        "status": {
            "observedGeneration": 1, "currentNumberScheduled": desired, "numberMisscheduled": 0,
            "desiredNumberScheduled": desired, "updatedNumberScheduled": desired, "numberReady": ready,
        },
    }))
    .unwrap()
}

fn node(status: Value) -> RelayNode {
    let mut whole = json!({"ready": true, "version": "1", "dataPath": "Socket"});
    for (field, value) in status.as_object().unwrap() {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": "edge-office-1", "namespace": "relays"},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
        "status": whole,
    }))
    .unwrap()
}

fn conditions(status: &PeerRelayStatus) -> Vec<String> {
    let text = |c: &Condition| format!("{}={}/{}", c.type_, c.status, c.reason);
    // Conditions with a file of their own are tested there.
    let own = |c: &&Condition| !c.type_.starts_with("Endpoints");
    status.conditions.iter().filter(own).map(text).collect()
}

fn ready(status: &PeerRelayStatus) -> Option<&Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}
