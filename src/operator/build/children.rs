//! Every name that admission lets through makes valid names and labels for all objects, whatever the
//! nodes are called.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeSet;

use bolero::check;
use serde_json::{Value, json};

use super::*;
use crate::operator::{
    fixtures::{self, Fixture},
    kinds::MonitoringKind,
    referred_credential::Referred,
    validate::validate,
};

/// Longest name of a node and of most other objects.
const LONGEST_NAME: usize = 253;

#[test]
fn every_admitted_name_makes_valid_children_on_every_node() {
    let mut tried = 0;
    check!()
        .with_iterations(600)
        .with_type::<([u8; 2], Vec<u8>, Vec<u8>, Vec<Vec<u8>>)>()
        .for_each(|(begins, peer_relay, region, nodes)| {
            let peer_relay = text(begins[0], peer_relay, 42);
            let region = text(begins[1], region, 22);
            if !names::is_peer_relay_name(&peer_relay) || !names::is_region_name(&region) {
                return;
            }
            tried += 1;
            let mut nodes: Vec<String> = nodes.iter().take(3).map(|bytes| node(bytes)).collect();
            nodes.push(node(&[7; LONGEST_NAME]));
            nodes.push(node(&[7; LONGEST_NAME - 1]));
            nodes.sort_unstable();
            nodes.dedup();
            judge(&peer_relay, &region, &nodes);
        });
    assert!(tried > 20, "only {tried} names were valid");
}

#[test]
fn longest_names_make_valid_children() {
    let nodes = [1, 2, LONGEST_NAME - 1, LONGEST_NAME].map(|length| "n".repeat(length));
    judge(
        &"a".repeat(names::LONGEST_PEER_RELAY),
        &"b".repeat(names::LONGEST_REGION),
        &nodes,
    );
}

/// Lower-case text with a few characters that some names may not have; mostly it begins well.
fn text(begin: u8, bytes: &[u8], longest: usize) -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-----.";
    let pick = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    let first = if begin.is_multiple_of(8) {
        begin
    } else {
        begin % 26
    };
    let all = std::iter::once(&first).chain(bytes);
    all.map(pick).take(longest).collect()
}

/// A name that a node may have: a DNS subdomain.
fn node(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"abcxyz019-.";
    let pick = |byte: &u8| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]);
    let text: String = bytes.iter().map(pick).take(LONGEST_NAME).collect();
    let labels = text.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<_> = labels.filter(|label| !label.is_empty()).collect();
    match labels.join(".") {
        name if name.is_empty() => "n".to_owned(),
        name => name,
    }
}

/// Builds everything in every exposure, on all nodes at once and on chosen ones.
fn judge(peer_relay: &str, region: &str, nodes: &[String]) {
    let exposures = [
        json!({}),
        json!({"type": "NodePort", "networkPolicy": true}),
        json!({"type": "NodePort", "hostNetwork": true}),
        json!({"type": "LoadBalancer", "loadBalancer": {"shareAddress": true}}),
    ];
    for exposure in exposures {
        for chosen in [None, Some(nodes.to_vec())] {
            let region = json!({
                "name": region, "clients": ["tag:office"], "exposure": exposure,
            });
            let mut relay = fixtures::relay(json!({"regions": [region]}));
            relay.metadata.name = Some(peer_relay.to_owned());
            let spec = validate(&relay, &Referred::Unknown, &fixtures::defaults()).unwrap();
            let mut relay = fixtures::unplanned(spec);
            relay.plan.regions[0].nodes.chosen = chosen;
            relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
            for (kind, objects) in built(&relay) {
                judge_kind(kind, &objects);
            }
            for node in nodes {
                let prefix = format!(
                    "{}-{}",
                    relay.spec.tailnet.hostname_prefix, relay.spec.regions[0].name
                );
                let device = names::device(&format!("{prefix}-{node}"));
                assert!(is_label(&device), "device {device} on {node}");
            }
        }
    }
}

fn built(relay: &Fixture) -> Vec<(&'static str, Vec<Value>)> {
    fn values(list: &[impl serde::Serialize]) -> Vec<Value> {
        list.iter()
            .map(|object| serde_json::to_value(object).unwrap())
            .collect()
    }
    let all = relay.build();
    let extra = |kind: MonitoringKind| {
        let found = all.monitoring.iter().filter(|object| object.kind == kind);
        let objects: Vec<_> = found.filter_map(|found| found.object.clone()).collect();
        values(&objects)
    };
    vec![
        ("ServiceAccount", values(&all.service_accounts)),
        ("Role", values(&all.roles)),
        ("RoleBinding", values(&all.role_bindings)),
        ("ConfigMap", values(&all.config_maps)),
        ("Service", values(&all.services)),
        ("NetworkPolicy", values(&all.network_policies)),
        ("PodDisruptionBudget", values(&all.disruption_budgets)),
        ("DaemonSet", values(&all.daemon_sets)),
        ("ServiceMonitor", extra(MonitoringKind::ServiceMonitor)),
        ("PrometheusRule", extra(MonitoringKind::PrometheusRule)),
    ]
}

fn judge_kind(kind: &str, objects: &[Value]) {
    let mut names = BTreeSet::new();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(names.insert(name), "two objects of kind {kind} are {name}");
        match kind {
            "Service" => assert!(names::is_service_name(name), "{kind} {name}"),
            // A DaemonSet's pods and revisions have longer names.
            _ => assert!(is_subdomain(name) && name.len() < 200, "{kind} {name}"),
        }
        labels_are_valid(object, kind);
    }
}

/// Walks through `value` and checks each map of labels, and the names of containers and volumes.
fn labels_are_valid(value: &Value, at: &str) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match key.as_str() {
                    "labels" | "matchLabels" | "selector" => {
                        for text in field.as_object().unwrap().values() {
                            let Some(text) = text.as_str() else { continue };
                            assert!(is_label_value(text), "{at}.{key}: {text}");
                        }
                    }
                    "containers" | "initContainers" | "volumes" => {
                        for item in field.as_array().unwrap() {
                            let name = item["name"].as_str().unwrap();
                            assert!(is_label(name), "{at}.{key}: {name}");
                        }
                    }
                    _ => {}
                }
                labels_are_valid(field, &format!("{at}.{key}"));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| labels_are_valid(item, at)),
        _ => {}
    }
}

/// RFC 1123: may begin with a digit.
fn is_label(text: &str) -> bool {
    text.len() <= names::LONGEST_LABEL && is_subdomain(text) && !text.contains('.')
}

fn is_subdomain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(allowed)
    };
    text.len() <= LONGEST_NAME && text.split('.').all(label)
}

fn is_label_value(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    let allowed = |c: char| ends(c) || matches!(c, '-' | '_' | '.');
    text.len() <= names::LONGEST_LABEL
        && text.starts_with(ends)
        && text.ends_with(ends)
        && text.chars().all(allowed)
}
