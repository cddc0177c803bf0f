#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use super::*;
use crate::{config::RelayConfig, operator::fixtures::validated};

#[test]
fn each_region_gets_one_of_each_object_under_one_name() {
    let regions = json!([
        {"name": "office", "clients": ["tag:office"]},
        {"name": "lab", "tag": "tag:lab-relay", "clients": ["tag:lab"]},
    ]);
    let resources = build(&validated(json!({"regions": regions})));
    let names: Vec<_> = resources
        .daemon_sets
        .iter()
        .map(|d| &d.metadata)
        .chain(resources.config_maps.iter().map(|c| &c.metadata))
        .chain(resources.service_accounts.iter().map(|s| &s.metadata))
        .chain(resources.roles.iter().map(|r| &r.metadata))
        .chain(resources.role_bindings.iter().map(|r| &r.metadata))
        .map(|m| m.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["edge-office", "edge-lab"].repeat(5));
}

#[test]
fn relay_reads_what_the_operator_writes() {
    let spec = json!({
        "port": 41000,
        "tailnet": {
            "authKey": {"secretName": "tailnet-auth"},
            "controlURL": "https://control.example.net",
            "caBundle": "-----BEGIN CERTIFICATE-----",
        },
    });
    let map = &build(&validated(spec)).config_maps[0];
    let data = map.data.as_ref().unwrap();
    let config: RelayConfig = serde_yaml::from_str(&data["relay.yaml"]).unwrap();
    assert_eq!(config.port, Some(41_000));
    assert_eq!(config.tags, ["tag:relay-office"]);
    assert_eq!(
        config.ca_file.unwrap().to_str(),
        Some("/etc/peerrelay/ca.pem")
    );
    assert_eq!(config.hostname_prefix.as_deref(), Some("edge"));
    assert!(data.contains_key("ca.pem"));
}

#[test]
fn relay_pod_is_on_the_host_network_and_otherwise_locked_down() {
    let pod = daemon_set(json!({}))["spec"]["template"]["spec"].clone();
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(
        pod["securityContext"],
        json!({"fsGroup": 65_532, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
            "runAsGroup": 65_532,
            "runAsNonRoot": true,
            "runAsUser": 65_532,
        })
    );
    assert_eq!(
        pod["volumes"][0]["hostPath"],
        json!({"path": "/var/lib/peerrelay/relays/edge-office", "type": "DirectoryOrCreate"})
    );
    assert_eq!(pod["volumes"][2]["secret"]["optional"], true);
    assert_eq!(pod["volumes"][2]["secret"]["defaultMode"], 0o440);
    assert_eq!(
        pod["containers"][0]["readinessProbe"]["httpGet"]["host"],
        "127.0.0.1"
    );
}

#[test]
fn changed_configuration_rolls_the_pods_out() {
    let annotation = |spec: Value| {
        daemon_set(spec)["spec"]["template"]["metadata"]["annotations"][names::CONFIG_ANNOTATION]
            .clone()
    };
    assert_eq!(annotation(json!({})), annotation(json!({})));
    assert_ne!(annotation(json!({})), annotation(json!({"port": 41000})));
}

#[test]
fn relay_may_report_and_nothing_else() {
    let role = &build(&validated(json!({}))).roles[0];
    let rules = role.rules.as_ref().unwrap();
    let verbs: Vec<_> = rules
        .iter()
        .map(|rule| (&rule.resources, rule.verbs.join(",")))
        .collect();
    assert_eq!(
        verbs[0],
        (
            &Some(vec!["relaynodes".to_owned()]),
            "create,patch".to_owned()
        )
    );
    assert_eq!(
        verbs[1],
        (
            &Some(vec!["relaynodes/status".to_owned()]),
            "patch".to_owned()
        )
    );
    assert_eq!(verbs.len(), 2);
}

fn daemon_set(spec: Value) -> Value {
    serde_json::to_value(&build(&validated(spec)).daemon_sets[0]).unwrap()
}
