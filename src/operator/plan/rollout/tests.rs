#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;
use crate::operator::probes::tests::probe;

#[test]
fn changed_relays_take_turns() {
    let live = [live("a", 1, true), live("b", 1, true)];
    assert_eq!(admitted(&live, 2), (vec!["a".into()], vec!["b".into()]));
    let live = [self::live("a", 2, false), self::live("b", 1, true)];
    assert_eq!(admitted(&live, 2), (vec!["a".into()], vec!["b".into()]));
    let live = [self::live("a", 2, true), self::live("b", 1, true)];
    assert_eq!(admitted(&live, 2), (vec!["a".into(), "b".into()], vec![]));
}

#[test]
fn who_is_not_ready_waits_for_nobody() {
    let live = [live("a", 1, true), live("b", 1, false)];
    assert_eq!(admitted(&live, 2), (vec!["b".into()], vec!["a".into()]));
}

#[test]
fn new_and_unchanged_ones_wait_for_nobody() {
    assert_eq!(admitted(&[], 1).0.len(), 2);
    let live = [live("a", 1, true), live("b", 1, false)];
    assert_eq!(admitted(&live, 1).0.len(), 2);
}

#[test]
fn a_region_with_one_daemon_set_leaves_turns_to_it() {
    let live = live("a", 1, true);
    let nodes = [node("a", &[])];
    let admission = rollout(&[live], &nodes, &[]).admit(vec![set("a", 2)]);
    assert_eq!((admission.now.len(), admission.deferred.len()), (1, 0));
}

#[test]
fn a_region_with_one_daemon_set_pauses_until_replaced_relays_are_reached() {
    let nodes = ["a", "b", "c"].map(|name| node(name, &[]));
    let wanted = |most: i32| {
        let mut set = set("edge-office", 2);
        set.annotations_mut().remove(names::NODE_ANNOTATION);
        set.spec = serde_json::from_value(json!({
            "selector": {}, "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}},
        }))
        .unwrap();
        set
    };
    let strategy = |relays: &[Arc<RelayNode>], updated: i32, most: i32| {
        let mut live = live("edge-office", 2, true);
        live.annotations_mut().remove(names::NODE_ANNOTATION);
        let status = live.status.get_or_insert_default();
        status.desired_number_scheduled = 3;
        status.updated_number_scheduled = Some(updated);
        let mut admission = rollout(&[live], &nodes, relays).admit(vec![wanted(most)]);
        let spec = admission.now.remove(0).spec.unwrap();
        let strategy = serde_json::to_value(spec.update_strategy.unwrap()).unwrap();
        (strategy, admission)
    };
    let rolling =
        |most: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}});
    let silent = ["b", "c"].map(|node| report(node, 9_000, &[]));
    let unreached = [&[report("a", 60, &[])], &silent[..]].concat();

    let (paused, admission) = strategy(&unreached, 1, 1);
    assert_eq!(paused, json!({"type": "OnDelete"}));
    assert_eq!(admission.recheck_after, Some(Duration::from_secs(240)));
    assert_eq!(
        admission.messages,
        [
            "region office: 2 relay(s) wait to be replaced until the one on a is reached by another \
          relay"
        ]
    );
    // Two may be absent: one more is replaced meanwhile.
    let (slower, admission) = strategy(&unreached, 1, 2);
    assert_eq!((slower, admission.messages.len()), (rolling(1), 0));
    assert_eq!(admission.recheck_after, Some(Duration::from_secs(240)));

    let probe = probe("pod-a", "192.0.2.1:40000", Some(5));
    let reached = [report("a", 60, &[]), report("b", 9_000, &[probe])];
    assert_eq!(strategy(&reached, 1, 1).0, rolling(1));
    // A relay that is new, without a roll-out.
    assert_eq!(strategy(&unreached, 3, 1).0, rolling(1));
}

#[test]
fn a_dead_node_holds_up_nobody() {
    let live = [live("a", 1, false), live("b", 1, true), live("c", 1, true)];
    for dead in [
        json!([]),
        json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]),
    ] {
        let mut nodes = vec![node("b", &[]), node("c", &[])];
        if let Some(taint) = dead.get(0) {
            nodes.push(node("a", std::slice::from_ref(taint)));
        }
        let admission = admission(&live, &["a", "b", "c"], 2, &nodes, &[], 1);
        assert_eq!(names(&admission), ["a", "b"]);
        assert_eq!(admission.deferred, ["c"]);
    }
    let nodes = ["a", "b", "c"].map(|name| node(name, &[]));
    let admission = admission(&live, &["a", "b", "c"], 2, &nodes, &[], 1);
    assert_eq!(names(&admission), ["a"]);
    let message = &admission.messages[0];
    assert_eq!(
        message,
        "region office: 2 relay(s) wait to be replaced until the one on a is ready"
    );
}

#[test]
fn as_many_may_be_missing_as_the_user_says() {
    let all = ["a", "b", "c", "d"];
    let nodes = all.map(|name| node(name, &[]));
    let ready = all.map(|name| live(name, 1, true));
    let may = |live: &[DaemonSet], most| names(&admission(live, &all, 2, &nodes, &[], most)).len();
    assert_eq!((may(&ready, 1), may(&ready, 2), may(&ready, 9)), (1, 2, 4));
    let mut one_missing = ready.clone();
    one_missing[3] = live("d", 1, false);
    // The one that is missing, and two besides.
    assert_eq!(may(&one_missing, 3), 3);
}

#[test]
fn relays_that_the_user_deletes_are_applied_at_once() {
    let all = ["a", "b"];
    let on_delete = all.map(|name| {
        let mut set = set(name, 2);
        let strategy = json!({"type": "OnDelete"});
        set.spec = serde_json::from_value(json!({
            "selector": {}, "template": {}, "updateStrategy": strategy,
        }))
        .unwrap();
        set
    });
    let live = all.map(|name| live(name, 1, true));
    let nodes = all.map(|name| node(name, &[]));
    let admission = rollout(&live, &nodes, &[]).admit(on_delete.into());
    assert_eq!((admission.now.len(), admission.deferred.len()), (2, 0));
}

#[test]
fn the_next_relay_waits_until_the_one_before_is_reached_again() {
    let live = [live("a", 2, true), live("b", 1, true)];
    let nodes = ["a", "b"].map(|name| node(name, &[]));
    let admission = |relays: &[Arc<RelayNode>]| admission(&live, &["a", "b"], 2, &nodes, relays, 1);
    let address = "192.0.2.1:40000";
    let silent = report("b", 9_000, &[]);
    let waiting = admission(&[report("a", 60, &[]), silent.clone()]);
    assert_eq!(waiting.deferred, ["b"]);
    assert_eq!(waiting.recheck_after, Some(Duration::from_secs(240)));
    assert!(waiting.messages[0].ends_with("until the one on a is reached by another relay"));
    let failed = report("b", 9_000, &[probe("pod-a", address, None)]);
    assert_eq!(admission(&[report("a", 60, &[]), failed]).deferred, ["b"]);
    let reached = report("b", 9_000, &[probe("pod-a", address, Some(5))]);
    assert!(
        admission(&[report("a", 60, &[]), reached])
            .deferred
            .is_empty()
    );
    // Nobody has reached it for too long, or nobody can try.
    assert!(
        admission(&[report("a", 301, &[]), silent])
            .deferred
            .is_empty()
    );
    assert!(admission(&[report("a", 60, &[])]).deferred.is_empty());
}

/// The DaemonSets that are applied and those that wait, when `a` and `b` are wanted in `version`.
fn admitted(live: &[DaemonSet], version: u8) -> (Vec<String>, Vec<String>) {
    let nodes = ["a", "b"].map(|name| node(name, &[]));
    let admission = admission(live, &["a", "b"], version, &nodes, &[], 1);
    (names(&admission), admission.deferred)
}

fn admission(
    live: &[DaemonSet],
    wanted: &[&str],
    version: u8,
    nodes: &[Arc<Node>],
    relays: &[Arc<RelayNode>],
    most: i32,
) -> Admission {
    let limited = |name: &&str| {
        let mut set = set(name, version);
        if most > 1 {
            let rolling = json!({"maxUnavailable": most});
            set.spec = serde_json::from_value(json!({
                "selector": {}, "template": {},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            }))
            .unwrap();
        }
        set
    };
    rollout(live, nodes, relays).admit(wanted.iter().map(limited).collect())
}

fn rollout(live: &[DaemonSet], nodes: &[Arc<Node>], relays: &[Arc<RelayNode>]) -> Rollout {
    Rollout::new(live.iter(), nodes, relays, now())
}

fn names(admission: &Admission) -> Vec<String> {
    admission.now.iter().map(ResourceExt::name_any).collect()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn node(name: &str, taints: &[Value]) -> Arc<Node> {
    let node = json!({"metadata": {"name": name}, "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

/// The report of the relay on a node, which is as many seconds old.
fn report(node: &str, age: i64, probes: &[Value]) -> Arc<RelayNode> {
    let created = Timestamp::from_second(now().as_second() - age).unwrap();
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": format!("pod-{node}"), "creationTimestamp": created.to_string()},
        "spec": {"peerRelay": "edge", "region": "office", "nodeName": node},
        "status": {
            "ready": true, "version": "0", "dataPath": "Socket", "probeKey": "ab".repeat(32),
            "endpoints": [{"address": "192.0.2.1:40000", "source": "Interface"}],
            "probes": probes,
        },
    });
    Arc::new(serde_json::from_value(report).unwrap())
}

fn set(name: &str, version: u8) -> DaemonSet {
    let labels = json!({names::REGION_LABEL: "office"});
    let notes = json!({"version": version.to_string(), names::NODE_ANNOTATION: name});
    let metadata = json!({"name": name, "labels": labels, "annotations": notes});
    serde_json::from_value(json!({"metadata": metadata})).unwrap()
}

fn live(name: &str, version: u8, ready: bool) -> DaemonSet {
    let mut live = set(name, version);
    let sum = checksum(&live);
    live.annotations_mut()
        .insert(names::APPLIED_ANNOTATION.into(), sum);
    live.metadata.generation = Some(version.into());
    live.status = serde_json::from_value(json!({
        "observedGeneration": version, "currentNumberScheduled": 1, "numberMisscheduled": 0,
        "desiredNumberScheduled": 1, "updatedNumberScheduled": 1,
        "numberReady": i32::from(ready),
    }))
    .unwrap();
    live
}
