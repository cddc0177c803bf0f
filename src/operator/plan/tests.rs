#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    crd::RelayNode,
    names,
    operator::{
        fixtures::{self, Fixture},
        host_ports,
    },
};

/// A control server of one's own, where no allowance applies.
const OWN: &str = "https://control.example.net";

#[test]
fn without_limits_the_daemon_set_decides() {
    let relay = planned(&json!({"tailnet": own()}), &cluster());
    assert_eq!(relay.plan.regions[0].nodes.chosen, None);
    assert_eq!(relay.plan.regions[0].nodes.fitting, 4);
}

#[test]
fn relays_of_the_hosted_control_server_are_two_in_all_unless_told_otherwise() {
    let relay = planned(&json!({}), &cluster());
    let plan = &relay.plan.regions[0].nodes;
    assert_eq!(plan.chosen.as_ref().unwrap().len(), 2);
    assert_eq!(plan.excess.len(), 2);
    let relay = planned(&json!({"maxRelays": 3}), &cluster());
    assert_eq!(
        relay.plan.regions[0].nodes.chosen.as_ref().unwrap().len(),
        3
    );
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
        .plan
        .regions
        .iter()
        .map(|r| r.nodes.chosen.clone().unwrap())
        .collect();
    let all: BTreeSet<_> = chosen.iter().flatten().collect();
    assert_eq!(all.len(), 4);
    let counts: Vec<_> = chosen.iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn regions_share_the_total_before_they_exclude_each_other() {
    let region = |name: &str| json!({"name": name, "clients": ["tag:a"]});
    let regions = json!([region("a"), region("b")]);
    for spec in [
        json!({"maxRelays": 2, "regions": regions}),
        json!({"regions": regions}),
        json!({"tailnet": own(), "regions": regions}),
    ] {
        let mut seen = cluster();
        seen.nodes.truncate(2);
        let plans = planned(&spec, &seen)
            .plan
            .regions
            .into_iter()
            .map(|r| r.nodes);
        let counts: Vec<_> = plans.map(|plan| plan.chosen.unwrap().len()).collect();
        assert_eq!(counts, [1, 1], "{spec}");
    }
}

#[test]
fn regions_that_do_not_meet_have_one_daemon_set_each() {
    let on = |name: &str, zone: &str| {
        let placement = json!({"nodeSelector": {names::ZONE_LABEL: zone}});
        json!({"name": name, "clients": ["tag:a"], "placement": placement})
    };
    let regions = json!([on("a", "a"), on("b", "b")]);
    let relay = planned(&json!({"tailnet": own(), "regions": regions}), &cluster());
    assert!(relay.plan.regions.iter().all(|r| r.nodes.chosen.is_none()));
}

#[test]
fn a_total_that_covers_all_nodes_of_a_large_cluster_needs_no_choice() {
    let mut seen = cluster();
    let chosen = |seen: &ClusterView, total: u16| {
        let relay = planned(&json!({"maxRelays": total, "tailnet": own()}), seen);
        relay.plan.regions[0].nodes.chosen.as_ref().map(Vec::len)
    };
    assert_eq!(chosen(&seen, 100), Some(4));
    assert_eq!(chosen(&seen, 101), None);
    let node = |at: u16| {
        let node = json!({"metadata": {"name": format!("m{at}")}});
        Arc::new(serde_json::from_value(node).unwrap())
    };
    seen.nodes.extend((0..200).map(node));
    assert_eq!(chosen(&seen, 204), None);
    assert_eq!(chosen(&seen, 203), Some(100), "no more than 100 one by one");
}

#[test]
fn a_chosen_node_has_a_daemon_set_of_its_own_that_keeps_it() {
    let limited = json!({"tailnet": own(), "regions": [{
        "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
    }]});
    let mut seen = cluster();
    let first = planned(&limited, &seen);
    let sets = first.build().daemon_sets;
    assert_eq!(sets.len(), 1);
    let node = first.plan.regions[0]
        .nodes
        .chosen
        .clone()
        .unwrap()
        .remove(0);
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
            planned(&limited, &seen).plan.regions[0].nodes.chosen,
            Some(vec![other.into()])
        );
    }
}

#[test]
fn a_new_limit_begins_with_who_runs() {
    let mut seen = cluster();
    let unlimited = planned(&json!({"tailnet": own()}), &seen);
    seen.daemon_sets = unlimited
        .build()
        .daemon_sets
        .into_iter()
        .map(Arc::new)
        .collect();
    seen.relay_nodes = ["n1", "n3", "n4"].iter().map(|node| report(node)).collect();
    let relay = planned(&json!({"maxRelays": 2, "tailnet": own()}), &seen);
    assert_eq!(
        relay.plan.regions[0].nodes.chosen.as_ref().unwrap(),
        &["n1", "n3", "n4"]
    );
    assert_eq!(relay.plan.regions[0].nodes.excess, ["n2"]);
}

#[test]
fn a_node_where_another_peer_relay_has_the_port_is_not_chosen() {
    let limited = json!({"tailnet": own(), "regions": [{
        "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 3},
    }]});
    let mut seen = cluster();
    let rival = |node: &str, port| Arc::new(host_ports::tests::pod("rival", node, true, port));
    let free = planned(&limited, &seen).plan.regions.remove(0).nodes;
    let chosen = free.chosen.unwrap();
    seen.pods = vec![rival(&chosen[0], 40_000)];
    let plan = planned(&limited, &seen).plan.regions.remove(0).nodes;
    assert_eq!(plan.chosen.as_ref().unwrap().len(), 3);
    assert!(!plan.chosen.unwrap().contains(&chosen[0]));
    // With another port it is no matter, and neither where all nodes are wanted anyway.
    seen.pods = vec![rival(&chosen[0], 41_000)];
    let plan = planned(&limited, &seen).plan.regions.remove(0).nodes;
    assert_eq!(plan.chosen.as_ref().unwrap(), &chosen);
    seen.pods = ["n1", "n2", "n3", "n4"]
        .map(|node| rival(node, 40_000))
        .into();
    let plan = planned(&limited, &seen).plan.regions.remove(0).nodes;
    assert!(plan.chosen.unwrap().is_empty());
    let (node, port, holder) = plan.conflict.unwrap();
    let conflict = (&*node, port.to_string(), &*holder.relay);
    assert_eq!(conflict, ("n1", "UDP port 40000".into(), "relays/rival"));
}

#[test]
fn the_relay_that_has_the_port_stays_and_the_one_that_waits_moves_on() {
    let limited = json!({"tailnet": own(), "regions": [{
        "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
    }]});
    let mut seen = cluster();
    let first = planned(&limited, &seen);
    let sets = first.build().daemon_sets.into_iter().map(Arc::new);
    seen.daemon_sets = sets.collect();
    let node = first.plan.regions[0]
        .nodes
        .chosen
        .clone()
        .unwrap()
        .remove(0);
    let pod =
        |relay: &str, scheduled| Arc::new(host_ports::tests::pod(relay, &node, scheduled, 40_000));
    seen.pods = vec![pod("edge", true), pod("rival", false)];
    let plan = planned(&limited, &seen).plan.regions.remove(0).nodes;
    assert_eq!(plan.chosen.unwrap(), std::slice::from_ref(&node));
    seen.pods = vec![pod("edge", false), pod("rival", true)];
    let plan = planned(&limited, &seen).plan.regions.remove(0).nodes;
    let chosen = plan.chosen.unwrap();
    assert!(chosen.len() == 1 && chosen[0] != node);
}

#[test]
fn configuration_names_chosen_nodes_only() {
    let mut seen = cluster();
    for node in &mut seen.nodes {
        let address = json!([{"type": "ExternalIP", "address": "203.0.113.1"}]);
        Arc::make_mut(node).status = serde_json::from_value(json!({"addresses": address})).unwrap();
    }
    let region = planned(&json!({}), &seen).plan.regions.remove(0);
    assert!(
        region
            .endpoints
            .nodes
            .keys()
            .eq(&region.nodes.chosen.unwrap())
    );
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

fn planned(spec: &Value, view: &ClusterView) -> Fixture {
    fixtures::planned_in(spec.clone(), view)
}

fn own() -> Value {
    json!({"authKey": {"secretName": "tailnet-auth"}, "controlURL": OWN})
}

fn cluster() -> ClusterView {
    let node = |(name, zone): (&str, &str)| {
        let labels = json!({names::ZONE_LABEL: zone});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap(),
        )
    };
    ClusterView {
        nodes: [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "b")]
            .map(node)
            .into(),
        ..ClusterView::default()
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
