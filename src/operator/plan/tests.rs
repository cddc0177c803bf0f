#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use super::*;
use crate::operator::{build::build, fixtures};

/// A control server of one's own, where no allowance applies.
const OWN: &str = "https://control.example.net";

#[test]
fn without_limits_the_daemon_set_decides() {
    let relay = planned(&json!({"tailnet": own()}), &cluster());
    assert_eq!(relay.regions[0].plan.chosen, None);
    assert_eq!(relay.regions[0].plan.fitting, 4);
}

#[test]
fn relays_of_the_hosted_control_server_are_two_in_all_unless_told_otherwise() {
    let relay = planned(&json!({}), &cluster());
    let plan = &relay.regions[0].plan;
    assert_eq!(plan.chosen.as_ref().unwrap().len(), 2);
    assert_eq!(plan.excess.len(), 2);
    let relay = planned(&json!({"maxRelays": 3}), &cluster());
    assert_eq!(relay.regions[0].plan.chosen.as_ref().unwrap().len(), 3);
}

#[test]
fn regions_on_the_host_network_do_not_meet_on_a_node() {
    let region = |name: &str| {
        json!({
            "name": name, "clients": ["tag:a"], "placement": {"maxRelays": 2},
        })
    };
    let regions = json!([region("a"), region("b"), region("c")]);
    let relay = planned(&json!({"tailnet": own(), "regions": regions}), &cluster());
    let chosen: Vec<_> = relay
        .regions
        .iter()
        .map(|r| r.plan.chosen.clone().unwrap())
        .collect();
    let all: BTreeSet<_> = chosen.iter().flatten().collect();
    assert_eq!(all.len(), 4);
    assert!(chosen[2].is_empty());
}

#[test]
fn a_chosen_node_has_a_daemon_set_of_its_own_that_keeps_it() {
    let limited = json!({"tailnet": own(), "regions": [{
        "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
    }]});
    let mut seen = cluster();
    let first = planned(&limited, &seen);
    let sets = build(&first).daemon_sets;
    assert_eq!(sets.len(), 1);
    let node = first.regions[0].plan.chosen.clone().unwrap().remove(0);
    let set = serde_json::to_value(&sets[0]).unwrap();
    assert_eq!(
        set["metadata"]["annotations"][names::NODE_ANNOTATION],
        *node
    );
    let terms = &set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    let by_name = json!([{"matchFields": [
        {"key": "metadata.name", "operator": "In", "values": [node]},
    ]}]);
    assert_eq!(*terms, by_name);
    // Another node than the preferred one keeps its relay too.
    for other in ["n1", "n2", "n3", "n4"] {
        let mut set = sets[0].clone();
        set.annotations_mut()
            .insert(names::NODE_ANNOTATION.into(), other.into());
        seen.daemon_sets = vec![Arc::new(set)];
        assert_eq!(
            planned(&limited, &seen).regions[0].plan.chosen,
            Some(vec![other.into()])
        );
    }
}

#[test]
fn a_new_limit_begins_with_who_runs() {
    let mut seen = cluster();
    let unlimited = planned(&json!({"tailnet": own()}), &seen);
    seen.daemon_sets = build(&unlimited)
        .daemon_sets
        .into_iter()
        .map(Arc::new)
        .collect();
    seen.relay_nodes = ["n1", "n3", "n4"].iter().map(|node| report(node)).collect();
    let relay = planned(&json!({"maxRelays": 2, "tailnet": own()}), &seen);
    assert_eq!(
        relay.regions[0].plan.chosen.as_ref().unwrap(),
        &["n1", "n3", "n4"]
    );
    assert_eq!(relay.regions[0].plan.excess, ["n2"]);
}

#[test]
fn names_of_relays_fit_a_label_and_differ() {
    let long = "n".repeat(200);
    let pairs = [
        ("edge-office", "n1.example"),
        ("edge-office", &long),
        ("edge", "office-n1.example"),
    ];
    let all: BTreeSet<_> = pairs
        .iter()
        .map(|(child, node)| names::on_node(child, node))
        .collect();
    assert_eq!(all.len(), 3);
    assert!(
        all.iter()
            .all(|name| name.len() <= 63 && !name.contains('.')),
        "{all:?}"
    );
}

fn planned(spec: &Value, seen: &Surroundings) -> ValidatedRelay {
    let mut relay = fixtures::validated(spec.clone());
    plan(&mut relay, seen);
    relay
}

fn own() -> Value {
    json!({"authKey": {"secretName": "tailnet-auth"}, "controlURL": OWN})
}

fn cluster() -> Surroundings {
    let node = |(name, zone): (&str, &str)| {
        let labels = json!({fit::ZONE_LABEL: zone});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap(),
        )
    };
    Surroundings {
        nodes: [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b")]
            .map(node)
            .into(),
        ..Surroundings::default()
    }
}

fn report(node: &str) -> Arc<RelayNode> {
    let spec = json!({"peerRelay": "edge", "region": "office", "nodeName": node});
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": node, "namespace": "relays"}, "spec": spec,
    });
    Arc::new(serde_json::from_value(report).unwrap())
}
