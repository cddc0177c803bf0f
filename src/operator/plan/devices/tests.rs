#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::{
    crd::RelayNode,
    names,
    operator::{devices::Deleting, fixtures},
};

fn oauth() -> Value {
    json!({"tailnet": {"oauth": {"secretName": "tailnet-oauth"}}})
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn record(id: &str, region: &str, node: &str) -> RelayDevice {
    RelayDevice {
        node_id: id.into(),
        name: format!("edge-{node}.tail1.ts.net"),
        region: region.into(),
        node: node.into(),
        tag: format!("tag:relay-{region}"),
        removed_since: None,
    }
}

fn removed(id: &str, region: &str, node: &str, second: i64) -> RelayDevice {
    RelayDevice {
        removed_since: Some(Time(at(second))),
        ..record(id, region, node)
    }
}

fn report(id: &str, region: &str, node: &str) -> Arc<RelayNode> {
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": format!("edge-{region}-{node}"), "namespace": "relays"},
        "spec": {"peerRelay": "edge", "region": region, "nodeName": node},
        "status": {
            "ready": true, "version": "1", "dataPath": "Socket",
            "tailnet": {"name": format!("edge-{node}.tail1.ts.net"), "nodeID": id, "tags": []},
        },
    });
    Arc::new(serde_json::from_value(report).unwrap())
}

fn pod(region: &str, node: &str) -> Arc<Pod> {
    let labels = json!({names::REGION_LABEL: region, names::PEER_RELAY_LABEL: "edge"});
    let pod = json!({
        "metadata": {"name": format!("edge-{region}-{node}"), "labels": labels},
        "spec": {"nodeName": node, "containers": []},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// A cluster with these nodes, whose PeerRelay has these devices in its status.
fn view(nodes: &[&str], devices: &[RelayDevice]) -> ClusterView {
    let node = |name: &&str| {
        let node = json!({"metadata": {"name": name, "labels": {}}});
        Arc::new(serde_json::from_value(node).unwrap())
    };
    ClusterView {
        nodes: nodes.iter().map(node).collect(),
        devices: devices.to_vec(),
        ..ClusterView::default()
    }
}

fn plan_of(spec: Value, view: &ClusterView, second: i64) -> DevicePlan {
    fixtures::planned_at(spec, view, at(second)).plan.devices
}

fn ids(devices: &[RelayDevice]) -> Vec<&str> {
    devices.iter().map(|device| &*device.node_id).collect()
}

#[test]
fn devices_are_recorded_only_if_the_operator_deletes_them() {
    let mut view = view(&["n1"], &[]);
    view.reports = vec![
        report("nA", "office", "n1"),
        report("../keys", "office", "n2"),
    ];
    let plan = plan_of(oauth(), &view, 0);
    assert_eq!(plan.recorded, [record("nA", "office", "n1")]);
    assert_eq!((plan.due, plan.next), (vec![], None));
    let auth_key = plan_of(json!({}), &view, 0);
    assert_eq!(auth_key, DevicePlan::default());
    let retain = json!({"tailnet": {
        "oauth": {"secretName": "tailnet-oauth"}, "deletionPolicy": "Retain",
    }});
    view.devices = vec![removed("nB", "office", "n3", 0)];
    assert_eq!(plan_of(retain, &view, 999), DevicePlan::default());
}

#[test]
fn a_device_whose_relay_does_not_report_is_kept_with_its_node() {
    let known = [record("nA", "office", "n1")];
    let plan = plan_of(oauth(), &view(&["n1"], &known), 9_999);
    assert_eq!((plan.recorded, plan.due), (known.to_vec(), vec![]));
    let came_back = [removed("nA", "office", "n1", 5)];
    let plan = plan_of(oauth(), &view(&["n1"], &came_back), 10);
    assert_eq!(plan.recorded, known, "the time begins anew");
}

#[test]
fn the_device_of_a_node_that_is_gone_is_deleted_after_the_grace_time() {
    let known = [record("nA", "office", "n1")];
    let plan = plan_of(oauth(), &view(&["n2"], &known), 10);
    let since = [removed("nA", "office", "n1", 10)];
    assert_eq!(plan.recorded, since);
    assert_eq!((plan.due, plan.next), (vec![], Some(at(130))));
    let mut view = view(&["n2"], &since);
    assert_eq!(plan_of(oauth(), &view, 129).due, []);
    let plan = plan_of(oauth(), &view, 130);
    assert_eq!((plan.due, plan.next), (since.to_vec(), None));
    assert_eq!(plan.recorded, since, "until it is deleted");
    view.own_pods = vec![pod("office", "n1")];
    assert_eq!(plan_of(oauth(), &view, 130).due, [], "its pod still runs");
    view.own_pods.clear();
    view.deleting = Deleting {
        done: ["nA".to_owned()].into(),
        problem: None,
    };
    assert_eq!(plan_of(oauth(), &view, 130).recorded, []);
    view.reports = vec![report("nA", "office", "n1")];
    let plan = plan_of(oauth(), &view, 130);
    assert_eq!(plan.recorded, known, "the relay is back");
}

#[test]
fn devices_of_removed_regions_go_when_their_pods_are_gone() {
    let known = [record("nA", "lab", "n1"), record("nB", "office", "n1")];
    let mut view = view(&["n1"], &known);
    view.own_pods = vec![pod("lab", "n1"), pod("office", "n1")];
    assert_eq!(plan_of(oauth(), &view, 0).due, []);
    view.own_pods = vec![pod("office", "n1")];
    let plan = plan_of(oauth(), &view, 1);
    assert_eq!(ids(&plan.due), ["nA"]);
    assert_eq!(ids(&plan.recorded), ["nA", "nB"]);
}

#[test]
fn the_earlier_device_of_a_relay_is_deleted_at_once() {
    let mut view = view(&["n1"], &[record("nA", "office", "n1")]);
    view.own_pods = vec![pod("office", "n1")];
    view.reports = vec![report("nB", "office", "n1")];
    let plan = plan_of(oauth(), &view, 0);
    assert_eq!(ids(&plan.due), ["nA"]);
    assert_eq!(ids(&plan.recorded), ["nA", "nB"]);
}

#[test]
fn nodes_that_are_no_longer_chosen_lose_their_devices_unless_relays_are_off() {
    let known = [record("nA", "office", "n1")];
    let place = |enabled: bool| {
        let mut spec = oauth();
        spec["enabled"] = json!(enabled);
        spec["regions"] = json!([{
            "name": "office", "clients": ["tag:office"], "placement": {"nodeSelector": {"a": "b"}},
        }]);
        spec
    };
    let view = view(&["n1"], &known);
    assert_eq!(plan_of(place(true), &view, 7).next, Some(at(127)));
    assert_eq!(plan_of(place(false), &view, 7).recorded, known);
}

#[test]
fn the_finalizer_is_wanted_while_a_device_may_exist() {
    let known = [record("nA", "office", "n1")];
    for (devices, wanted) in [(&known[..], true), (&[], false)] {
        let plan = fixtures::planned_at(oauth(), &view(&["n1"], devices), at(0)).plan;
        assert_eq!(plan.has_devices(), wanted);
    }
}
