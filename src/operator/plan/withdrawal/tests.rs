#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::operator::{fixtures, objects::Objects, objects::Prepared, plan::Plan};

type Resources = Objects<Prepared>;

const START: &str = "2026-01-01T00:00:00Z";

/// A cluster whose kubelets and relays do what they are told.
struct Cluster {
    view: ClusterView,
}

impl Cluster {
    /// Runs the relays of `spec` on these nodes.
    fn running(spec: &Value, nodes: &[&str]) -> Self {
        let node = |name: &&str| Arc::new(read(json!({"metadata": {"name": name}})));
        let mut cluster = Self {
            view: ClusterView {
                nodes: nodes.iter().map(node).collect(),
                ..ClusterView::default()
            },
        };
        let (_, resources) = cluster.pass(spec, 0);
        cluster.carry_out(&resources);
        cluster
    }

    /// The plan and the objects of a pass so many seconds after the start.
    fn pass(&mut self, spec: &Value, seconds: i64) -> (Plan, Resources) {
        let view = ClusterView {
            config_maps: self.view.config_maps.clone(),
            relay_nodes: self.view.reports.clone(),
            ..self.view.clone()
        };
        let planned = fixtures::planned_at(spec.clone(), &view, at(seconds));
        let objects = planned.objects();
        (planned.plan, objects)
    }

    /// Makes the cluster hold what is wanted, with a pod that reports for each place of a relay.
    fn carry_out(&mut self, resources: &Resources) {
        let deferred = |name: &String| resources.deferred.names.contains(name);
        let seen = &mut self.view;
        seen.daemon_sets.retain(|set| deferred(&set.name_any()));
        let wanted = resources.stage.daemon_sets.iter().cloned().map(Arc::new);
        seen.daemon_sets.extend(wanted);
        seen.config_maps = resources
            .stage
            .config_maps
            .iter()
            .cloned()
            .map(Arc::new)
            .collect();
        let (sets, nodes) = (seen.daemon_sets.clone(), seen.nodes.clone());
        (seen.own_pods, seen.reports) = sets
            .iter()
            .filter(|set| !daemon_sets::is_off(set))
            .flat_map(|set| {
                let only = set.annotations().get(names::NODE_ANNOTATION);
                let nodes = nodes.iter().map(|node| node.name_any());
                let here = nodes.filter(move |node| only.is_none_or(|only| only == node));
                here.map(move |node| pod(set, &node))
            })
            .unzip();
    }

    /// Has the relay on `node` report that nobody uses it any more.
    fn complete(&mut self, node: &str, since: &str) {
        for report in &mut self.view.reports {
            if report.spec.node_name == node {
                let status = Arc::make_mut(report).status.as_mut().unwrap();
                status.withdrawal = Some(read(json!({"since": since, "complete": true})));
            }
        }
    }

    fn cordon(&mut self, node: &str, cordoned: bool) {
        for one in &mut self.view.nodes {
            if one.name_any() == node {
                let spec = Arc::make_mut(one).spec.get_or_insert_default();
                spec.unschedulable = Some(cordoned);
            }
        }
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod(set: &DaemonSet, node: &str) -> (Arc<Pod>, Arc<RelayNode>) {
    let name = format!("{}-{node}", set.name_any());
    let labels = set.labels();
    let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": {"nodeName": node}});
    let region = &labels[names::REGION_LABEL];
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode", "metadata": {"name": name},
        "spec": {"peerRelay": "edge", "region": region, "nodeName": node},
        "status": {"ready": true, "version": "0", "dataPath": "Socket"},
    });
    (Arc::new(read(pod)), Arc::new(read(report)))
}

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = START.parse().unwrap();
    start + SignedDuration::from_secs(seconds)
}

/// The withdrawals that relays of a region read.
fn asked_of(resources: &Resources, child: &str) -> Option<String> {
    let map = resources
        .stage
        .config_maps
        .iter()
        .find(|m| m.name_any() == child);
    map?.data.as_ref()?.get(WITHDRAWALS_KEY).cloned()
}

fn sets(resources: &Resources) -> Vec<String> {
    let names = resources.stage.daemon_sets.iter();
    names.map(ResourceExt::name_any).collect()
}

/// A control server without an allowance, and at most so many relays.
fn at_most(relays: Option<u16>) -> Value {
    let mut placement = json!({});
    if let Some(relays) = relays {
        placement["maxRelays"] = relays.into();
    }
    let control = "https://control.example.net";
    json!({
        "tailnet": {"authKey": {"secretName": "a"}, "controlURL": control},
        "regions": [{"name": "office", "clients": ["tag:a"], "placement": placement}],
    })
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

#[test]
fn relays_of_a_disabled_peer_relay_are_asked_and_end_after_the_limit() {
    for most in [None, Some(2)] {
        let mut cluster = Cluster::running(&at_most(most), &["n1", "n2"]);
        let off = with(at_most(most), "enabled", json!(false));
        for second in [1, 60, 120] {
            let (plan, resources) = cluster.pass(&off, second);
            let leaving = plan.leaving.unwrap();
            assert_eq!((leaving.relays, leaving.until), (2, at(121)), "{second}");
            assert_eq!(sets(&resources), [""; 0], "changed before its time");
            let asked = asked_of(&resources, "edge-office").unwrap();
            assert_eq!(asked, "'*': 2026-01-01T00:00:01Z\n");
            cluster.carry_out(&resources);
        }
        let (plan, resources) = cluster.pass(&off, 121);
        assert_eq!(plan.leaving, None);
        let all_off = |sets: &[DaemonSet]| sets.iter().all(daemon_sets::is_off);
        assert_eq!(
            resources.stage.daemon_sets.len(),
            most.map_or(1, usize::from)
        );
        assert!(all_off(&resources.stage.daemon_sets));
        cluster.carry_out(&resources);
        assert!(cluster.view.own_pods.is_empty());
        let (plan, resources) = cluster.pass(&off, 500);
        assert_eq!(plan.leaving, None);
        assert_eq!(asked_of(&resources, "edge-office"), None);
        // Back on, on the same nodes.
        let (_, resources) = cluster.pass(&at_most(most), 600);
        assert_eq!(
            resources.stage.daemon_sets.len(),
            most.map_or(1, usize::from)
        );
        assert!(!resources.stage.daemon_sets.iter().any(daemon_sets::is_off));
    }
}

#[test]
fn relays_that_clients_have_left_end_at_once_and_others_wait() {
    let mut cluster = Cluster::running(&at_most(Some(2)), &["n1", "n2"]);
    let off = with(at_most(Some(2)), "enabled", json!(false));
    let (_, resources) = cluster.pass(&off, 1);
    cluster.carry_out(&resources);
    cluster.complete("n1", "2025-12-31T00:00:00Z");
    let (plan, _) = cluster.pass(&off, 5);
    assert_eq!(
        plan.leaving.unwrap().relays,
        2,
        "an earlier withdrawal counted"
    );
    cluster.complete("n1", "2026-01-01T00:00:01Z");
    let (plan, resources) = cluster.pass(&off, 5);
    assert_eq!(plan.leaving.unwrap().relays, 1);
    assert_eq!(sets(&resources), [names::on_node("edge-office", "n1")]);
}

#[test]
fn a_relay_that_never_reported_is_not_waited_for() {
    let mut cluster = Cluster::running(&at_most(None), &["n1"]);
    cluster.view.reports.clear();
    let off = with(at_most(None), "enabled", json!(false));
    assert_eq!(cluster.pass(&off, 1).0.leaving, None);
}

#[test]
fn enabled_again_in_time_nothing_has_happened() {
    let mut cluster = Cluster::running(&at_most(Some(2)), &["n1", "n2"]);
    let off = with(at_most(Some(2)), "enabled", json!(false));
    let (_, resources) = cluster.pass(&off, 1);
    cluster.carry_out(&resources);
    let (plan, resources) = cluster.pass(&at_most(Some(2)), 30);
    assert_eq!(plan.leaving, None);
    assert_eq!(asked_of(&resources, "edge-office"), None);
    let before = cluster.view.daemon_sets.iter().map(AsRef::as_ref);
    let before: Vec<&DaemonSet> = before.collect();
    assert_eq!(
        resources.stage.daemon_sets.iter().collect::<Vec<_>>(),
        before
    );
}

#[test]
fn one_relay_less_is_one_that_is_asked() {
    let mut cluster = Cluster::running(&at_most(Some(2)), &["n1", "n2"]);
    let (plan, resources) = cluster.pass(&at_most(Some(1)), 1);
    let stays = plan.regions[0].nodes.chosen.clone().unwrap().remove(0);
    let goes = if stays == "n1" { "n2" } else { "n1" };
    let asked = asked_of(&resources, "edge-office").unwrap();
    assert_eq!(asked, format!("{goes}: 2026-01-01T00:00:01Z\n"));
    let name = names::on_node("edge-office", goes);
    assert!(
        resources.deferred.names.contains(&name),
        "{:?}",
        resources.deferred
    );
    cluster.carry_out(&resources);
    // An operator that starts now goes by the same time.
    let (plan, _) = cluster.pass(&at_most(Some(1)), 100);
    assert_eq!(plan.leaving.unwrap().until, at(121));
    let (_, resources) = cluster.pass(&at_most(Some(1)), 121);
    assert!(!resources.deferred.names.contains(&name));
    let asked = asked_of(&resources, "edge-office");
    assert!(asked.is_some(), "the request ends before the relay");
    cluster.carry_out(&resources);
    let (_, resources) = cluster.pass(&at_most(Some(1)), 122);
    assert_eq!(asked_of(&resources, "edge-office"), None);
}

#[test]
fn a_limit_that_keeps_some_nodes_of_a_shared_daemon_set_waits_with_all() {
    let mut cluster = Cluster::running(&at_most(None), &["n1", "n2", "n3"]);
    let wanted = at_most(Some(2));
    let (plan, resources) = cluster.pass(&wanted, 1);
    let leaving = plan.leaving.clone().map(|leaving| leaving.relays);
    match plan.regions[0].nodes.chosen.as_ref().map(Vec::len) {
        // Who reports is thought to run, and the limit keeps two of them.
        Some(2) => {
            assert_eq!(leaving, Some(1));
            assert_eq!(sets(&resources), [""; 0], "started beside the old one");
            let (_, resources) = cluster.pass(&wanted, 130);
            assert!(
                resources.stage.daemon_sets.is_empty(),
                "asked for the first time"
            );
            cluster.carry_out(&resources);
            let (_, resources) = cluster.pass(&wanted, 251);
            assert_eq!(resources.stage.daemon_sets.len(), 2);
            assert!(!resources.deferred.names.contains(&"edge-office".to_owned()));
        }
        other => panic!("{other:?} nodes were chosen"),
    }
}

#[test]
fn a_relay_that_another_replaces_on_its_node_is_not_asked() {
    let mut cluster = Cluster::running(&at_most(None), &["n1", "n2"]);
    // The same nodes, with DaemonSets of their own, and under another region's name.
    let mut renamed = at_most(None);
    renamed["regions"][0]["name"] = json!("annex");
    for spec in [at_most(Some(2)), renamed] {
        let (plan, resources) = cluster.pass(&spec, 1);
        assert_eq!(plan.leaving, None, "{spec}");
        assert!(!resources.deferred.names.contains(&"edge-office".to_owned()));
    }
}

#[test]
fn a_region_that_is_gone_keeps_its_objects_until_its_relays_have_ended() {
    let at = |name: &str, node: &str| {
        let placement = json!({"nodeSelector": {"name": node}});
        json!({"name": name, "clients": ["tag:a"], "placement": placement})
    };
    let regions = |regions: Value| with(at_most(None), "regions", regions);
    let two = regions(json!([at("office", "n1"), at("lab", "n2")]));
    let one = regions(json!([at("office", "n1")]));
    let mut cluster = Cluster::running(&two, &["n1", "n2"]);
    for node in &mut cluster.view.nodes {
        let labels = [("name".to_owned(), node.name_any())];
        Arc::make_mut(node).metadata.labels = Some(labels.into());
    }
    let (_, resources) = cluster.pass(&two, 0);
    cluster.carry_out(&resources);
    // The fixture's kubelets know no node selectors.
    let here = |node: &str, name: &str| name.contains("office") == (node == "n1");
    let seen = &mut cluster.view;
    seen.reports
        .retain(|report| here(&report.spec.node_name, &report.name_any()));
    seen.own_pods.retain(|pod| {
        let node = pod.spec.as_ref().unwrap().node_name.clone().unwrap();
        here(&node, &pod.name_any())
    });
    let (plan, resources) = cluster.pass(&one, 1);
    assert_eq!(plan.leaving.unwrap().relays, 1);
    assert!(resources.deferred.names.contains(&"edge-lab".to_owned()));
    let asked = asked_of(&resources, "edge-lab").unwrap();
    assert_eq!(asked, "'*': 2026-01-01T00:00:01Z\n");
    assert_eq!(asked_of(&resources, "edge-office"), None);
    let map = |cluster: &Cluster| {
        let maps = &cluster.view.config_maps;
        maps.iter().find(|m| m.name_any() == "edge-lab").cloned()
    };
    let before = map(&cluster).unwrap();
    cluster.view.config_maps = resources
        .stage
        .config_maps
        .iter()
        .cloned()
        .map(Arc::new)
        .collect();
    let after = map(&cluster).unwrap();
    assert_eq!(
        after.data.as_ref().unwrap()["relay.yaml"],
        before.data.as_ref().unwrap()["relay.yaml"]
    );
    // The same again is no change.
    let (_, again) = cluster.pass(&one, 60);
    let again = again
        .stage
        .config_maps
        .iter()
        .find(|m| m.name_any() == "edge-lab");
    assert_eq!(again, Some(&*after));
    let (plan, resources) = cluster.pass(&one, 121);
    assert_eq!(plan.leaving, None);
    assert!(!resources.deferred.names.contains(&"edge-lab".to_owned()));
}

#[test]
fn the_relay_of_a_cordoned_node_gives_out_no_sessions_while_another_can() {
    let mut cluster = Cluster::running(&at_most(None), &["n1", "n2"]);
    let asked = |cluster: &mut Cluster, second| {
        let (plan, resources) = cluster.pass(&at_most(None), second);
        assert_eq!(plan.leaving, None, "a cordon removes no relay");
        assert_eq!(sets(&resources), ["edge-office"]);
        cluster.carry_out(&resources);
        asked_of(&resources, "edge-office")
    };
    cluster.cordon("n1", true);
    let first = Some("n1: 2026-01-01T00:00:05Z\n".to_owned());
    assert_eq!(asked(&mut cluster, 5), first);
    assert_eq!(asked(&mut cluster, 5_000), first);
    cluster.cordon("n2", true);
    assert_eq!(asked(&mut cluster, 5_001), None, "nobody is left");
    cluster.cordon("n1", false);
    assert!(asked(&mut cluster, 5_002).unwrap().starts_with("n2"));
    cluster.cordon("n2", false);
    assert_eq!(asked(&mut cluster, 5_003), None);
}
