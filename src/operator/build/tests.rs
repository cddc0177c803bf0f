#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;
use crate::{
    config::{RelayConfig, endpoints::NodeEndpoints, log_level::LogLevel, port::RelayPort},
    operator::{
        daemon_sets::is_off,
        fixtures::{Fixture, undecided},
        kinds::MonitoringKind,
    },
};

#[test]
fn each_region_gets_one_of_each_object_under_one_name() {
    let regions = json!([
        {"name": "office", "clients": ["tag:office"]},
        {"name": "lab", "tag": "tag:lab-relay", "clients": ["tag:lab"]},
    ]);
    let resources = undecided(json!({"regions": regions})).build();
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
    let mut wanted = ["edge-office", "edge-lab"].repeat(5);
    wanted.insert(4, "edge-grants");
    assert_eq!(names, wanted);
}

#[test]
fn policy_is_written_unless_the_user_wants_none() {
    let policy = |spec| {
        let maps = undecided(spec).build().config_maps;
        maps.into_iter()
            .find(|map| map.metadata.name.as_deref() == Some("edge-grants"))
    };
    let data = policy(json!({})).unwrap().data.unwrap();
    assert!(data["grants.hujson"].contains("Region office of relays/edge"));
    let changed = json!({"regions": [{"name": "office", "clients": ["tag:lab"]}]});
    let other = policy(changed).unwrap().data.unwrap();
    assert_ne!(data["checksum"], other["checksum"]);
    let port = policy(json!({"port": 41_000})).unwrap().data.unwrap();
    assert_eq!(data["checksum"], port["checksum"]);
    assert!(policy(json!({"grants": {"output": "None"}})).is_none());
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
    let map = &undecided(spec).build().config_maps[0];
    let data = map.data.as_ref().unwrap();
    let config: RelayConfig = serde_yaml::from_str(&data["relay.yaml"]).unwrap();
    assert_eq!(config.port, Some(RelayPort::On(41_000)));
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
    let pod = daemon_set(json!({"dataPath": "Socket"}))["spec"]["template"]["spec"].clone();
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
fn kernel_path_takes_two_capabilities_and_the_bpf_file_system() {
    for spec in [json!({}), json!({"dataPath": "Kernel"})] {
        let pod = daemon_set(spec)["spec"]["template"]["spec"].clone();
        assert_eq!(
            pod["containers"][0]["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"add": ["BPF", "NET_ADMIN"], "drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
                "runAsGroup": 0,
                "runAsUser": 0,
            })
        );
        let bpf = json!({"name": "bpf", "hostPath": {"path": "/sys/fs/bpf"}});
        assert!(pod["volumes"].as_array().unwrap().contains(&bpf));
        let owner = pod["initContainers"][0]["args"].as_array().unwrap().last();
        assert_eq!(owner.unwrap(), "0", "the relay's user owns its state");
    }
    let pod = daemon_set(json!({"dataPath": "Socket"}))["spec"]["template"]["spec"].clone();
    let owner = pod["initContainers"][0]["args"].as_array().unwrap().last();
    assert_eq!(owner.unwrap(), "65532");
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().all(|volume| volume["name"] != "bpf"));
}

#[test]
fn limits_reach_the_relays() {
    let limits = json!({
        "maxSessions": 1000, "maxSessionsPerNode": 10, "maxSessionsPerTag": 100,
        "maxMegabitsPerSecond": 500, "maxMegabitsPerSecondPerSession": 20,
    });
    let resources = undecided(json!({"limits": limits})).build();
    let config = &resources.config_maps[0].data.as_ref().unwrap()["relay.yaml"];
    let config: serde_json::Value = serde_yaml::from_str(config).unwrap();
    for (name, most) in limits.as_object().unwrap() {
        assert_eq!(&config[name], most, "{name}");
    }
}

#[test]
fn relays_read_the_auth_key_from_its_key_of_the_secret() {
    for (key, file) in [(None, "authkey"), (Some("ts.key"), "ts.key")] {
        let tailnet = json!({"authKey": {"secretName": "tailnet-auth", "key": key}});
        let resources = undecided(json!({"tailnet": tailnet})).build();
        let config = &resources.config_maps[0].data.as_ref().unwrap()["relay.yaml"];
        let config: RelayConfig = serde_yaml::from_str(config).unwrap();
        assert!(config.auth_key_file.unwrap().ends_with(file), "{key:?}");
    }
}

#[test]
fn relays_behind_a_node_port_pass_pod_security_restricted() {
    let region = json!({
        "name": "office", "clients": ["tag:office"],
        "exposure": {"type": "NodePort", "nodePort": 31_000},
    });
    let resources = undecided(json!({"regions": [region]})).build();
    let set = serde_json::to_value(&resources.daemon_sets[0]).unwrap();
    let pod = &set["spec"]["template"]["spec"];
    for field in ["hostNetwork", "initContainers"] {
        assert!(pod.get(field).is_none(), "{field} is set");
    }
    assert_eq!(pod["volumes"][0]["emptyDir"]["medium"], "Memory");
    let container = &pod["containers"][0];
    assert!(container["ports"][0].get("hostPort").is_none());
    for probe in ["livenessProbe", "readinessProbe"] {
        assert!(container[probe]["httpGet"].get("host").is_none());
    }
    let config = &resources.config_maps[0].data.as_ref().unwrap()["relay.yaml"];
    let config: RelayConfig = serde_yaml::from_str(config).unwrap();
    assert_eq!(config.ephemeral, Some(true));
    assert_eq!(config.endpoints.discover, Some(Vec::new()));
    assert_eq!(config.metrics_addr.unwrap().to_string(), "[::]:9440");
    let service = serde_json::to_value(&resources.services[0]).unwrap();
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 31_000);
    assert_eq!(service["spec"]["ports"][0]["protocol"], "UDP");
}

#[test]
fn node_port_on_the_host_network_keeps_the_identity_on_the_node() {
    let region = json!({
        "name": "office", "clients": ["tag:office"],
        "exposure": {"type": "NodePort", "hostNetwork": true},
    });
    let resources = undecided(json!({"regions": [region]})).build();
    let set = serde_json::to_value(&resources.daemon_sets[0]).unwrap();
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"], true);
    assert!(pod["volumes"][0].get("hostPath").is_some());
    assert_eq!(resources.services.len(), 2);
}

#[test]
fn addresses_of_nodes_start_no_relay_again() {
    let mut relay = undecided(json!({}));
    let before = relay.build();
    let address = NodeEndpoints {
        assigned: vec!["192.0.2.1:31000".parse().unwrap()],
        ..NodeEndpoints::default()
    };
    let endpoints = &mut relay.plan.regions[0].endpoints;
    endpoints.nodes.insert("n1".into(), address);
    let after = relay.build();
    assert_eq!(before.daemon_sets, after.daemon_sets);
    assert_ne!(before.config_maps, after.config_maps);
}

#[test]
fn relays_that_wait_are_left_as_they_are() {
    let mut relay = undecided(json!({}));
    relay.plan.regions[0].start.waiting = Some(crate::operator::plan::Waiting {
        reason: "NodePortPending",
        message: String::new(),
    });
    let objects = relay.objects();
    assert!(objects.stage.daemon_sets.is_empty());
    assert_eq!(objects.deferred.names, ["edge-office"]);
}

#[test]
fn pods_are_made_as_the_template_says_and_remain_relays() {
    let template = json!({
        "image": "example.test/other:2",
        "imagePullSecrets": ["pull"],
        "resources": {"limits": {"memory": "1Gi"}},
        "priorityClassName": "system-node-critical",
        "labels": {"team": "net", names::REGION_LABEL: "stolen"},
        "annotations": {"note": "x"},
        "updateStrategy": {"maxUnavailable": 3},
        "podOverrides": {"containers": [
            {"name": "relay", "env": [{"name": "RUST_LOG", "value": "debug"}]},
            {"name": "side", "image": "s"},
        ]},
    });
    let set = daemon_set(json!({"template": template}));
    let (metadata, pod) = (
        &set["spec"]["template"]["metadata"],
        &set["spec"]["template"]["spec"],
    );
    assert_eq!(metadata["labels"]["team"], "net");
    assert_eq!(metadata["labels"][names::REGION_LABEL], "office");
    assert_eq!(metadata["annotations"]["note"], "x");
    assert_eq!(
        set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"],
        3
    );
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    for container in [&pod["containers"][0], &pod["initContainers"][0]] {
        assert_eq!(container["image"], "example.test/other:2");
        assert_eq!(container["resources"], json!({"limits": {"memory": "1Gi"}}));
    }
    let names: Vec<_> = pod["containers"][0]["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["name"])
        .collect();
    assert_eq!(
        names,
        ["NODE_NAME", "POD_NAME", "POD_UID", "HOST_IP", "RUST_LOG"]
    );
    assert_eq!(pod["containers"][1]["name"], "side");
}

#[test]
fn several_relays_are_evicted_one_at_a_time() {
    let mut relay = undecided(json!({}));
    let mut least = |nodes: &[&str]| {
        relay.plan.regions[0].nodes.chosen = Some(nodes.iter().map(ToString::to_string).collect());
        let budgets = relay.build().disruption_budgets;
        budgets
            .first()
            .map(|b| serde_json::to_value(b).unwrap()["spec"]["minAvailable"].clone())
    };
    assert_eq!(least(&["n1", "n2", "n3"]), Some(json!(2)));
    assert_eq!(least(&["n1"]), None);
}

#[test]
fn changed_configuration_rolls_the_pods_out() {
    let annotation = |spec: Value| {
        daemon_set(spec)["spec"]["template"]["metadata"]["annotations"][names::CONFIG_ANNOTATION]
            .clone()
    };
    assert_eq!(annotation(json!({})), annotation(json!({})));
    assert_ne!(annotation(json!({})), annotation(json!({"port": 41000})));
    assert_ne!(
        annotation(json!({})),
        annotation(json!({"tailnet": {
            "authKey": {"secretName": "tailnet-auth"}, "caBundle": "-----BEGIN CERTIFICATE-----",
        }}))
    );
}

#[test]
fn changed_endpoints_reach_the_relays_without_a_roll_out() {
    let built = |endpoints: Value| {
        let region = json!({"name": "office", "clients": ["tag:office"], "endpoints": endpoints});
        let resources = undecided(json!({"regions": [region]})).build();
        let data = resources.config_maps[0].data.clone().unwrap();
        let config: RelayConfig = serde_yaml::from_str(&data["relay.yaml"]).unwrap();
        (config.endpoints, resources.daemon_sets[0].clone())
    };
    let (_, before) = built(json!({}));
    let (endpoints, after) = built(json!({"static": ["203.0.113.10:40000"], "max": 3}));
    assert_eq!(endpoints.fixed[0].to_string(), "203.0.113.10:40000");
    assert_eq!(endpoints.max, Some(3));
    assert_eq!(before, after);
}

#[test]
fn changed_log_level_reaches_the_relays_without_a_roll_out() {
    let built = |spec: Value| {
        let resources = undecided(spec).build();
        let data = resources.config_maps[0].data.clone().unwrap();
        let config: RelayConfig = serde_yaml::from_str(&data["relay.yaml"]).unwrap();
        (config.log_level, resources.daemon_sets[0].clone())
    };
    let (none, before) = built(json!({}));
    let (level, after) = built(json!({"logLevel": "Debug"}));
    assert_eq!((none, level), (None, Some(LogLevel::Debug)));
    assert_eq!(before, after);
}

#[test]
fn relay_may_report_and_read_its_own_configuration_and_nothing_else() {
    let role = &undecided(json!({})).build().roles[0];
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
    assert_eq!(
        rules[2].resource_names,
        Some(vec!["edge-office".to_owned()])
    );
    assert_eq!(
        verbs[2],
        (
            &Some(vec!["configmaps".to_owned()]),
            "list,watch".to_owned()
        )
    );
    assert_eq!(verbs.len(), 3);
}

fn daemon_set(spec: Value) -> Value {
    serde_json::to_value(&undecided(spec).build().daemon_sets[0]).unwrap()
}

#[test]
fn metrics_are_annotated_until_there_is_a_service_monitor() {
    let mut relay = undecided(json!({}));
    let service = |relay: &Fixture| {
        let services = relay.build().services;
        services
            .into_iter()
            .find(|s| s.metadata.name.as_deref() == Some("edge-metrics"))
    };
    let annotations = service(&relay).unwrap().metadata.annotations.unwrap();
    assert_eq!(annotations["prometheus.io/port"], "9440");
    assert!(
        MonitoringKind::ALL
            .iter()
            .all(|kind| object(*kind, &relay).is_none())
    );
    relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
    let monitor = object(MonitoringKind::ServiceMonitor, &relay).unwrap();
    let selected = monitor.data["spec"]["selector"]["matchLabels"].clone();
    assert_eq!(selected, json!(service(&relay).unwrap().metadata.labels));
    let rule = object(MonitoringKind::PrometheusRule, &relay)
        .unwrap()
        .data
        .to_string();
    assert!(
        rule.contains(r#"namespace=\"relays\",peer_relay=\"edge\""#) && !rule.contains("SELECTOR")
    );
    let boards = |relay: &Fixture| {
        let maps = relay.build().config_maps;
        let is_board = |map: &&ConfigMap| map.labels().contains_key("grafana_dashboard");
        maps.iter().filter(is_board).count()
    };
    assert_eq!(boards(&relay), 0, "the chart has one for all");
    let own = undecided(json!({"monitoring": {"dashboards": "Enabled"}}));
    assert_eq!(boards(&own), 1);
}

#[test]
fn what_a_prometheus_selects_by_is_on_monitor_and_rule() {
    let mut relay = undecided(json!({"monitoring": {
        "labels": {"release": "monitoring", "app.kubernetes.io/managed-by": "me"},
        "interval": "5s", "scrapeTimeout": "4s",
        "relabelings": [{"targetLabel": "cluster", "replacement": "a"}],
        "metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
    }}));
    relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
    for kind in MonitoringKind::ALL {
        let labels = object(kind, &relay).unwrap().metadata.labels.unwrap();
        assert_eq!(labels["release"], "monitoring");
        assert_eq!(labels["app.kubernetes.io/managed-by"], names::OPERATOR);
    }
    let monitor = object(MonitoringKind::ServiceMonitor, &relay).unwrap();
    let endpoint = &monitor.data["spec"]["endpoints"][0];
    assert_eq!(endpoint["interval"], "5s");
    assert_eq!(endpoint["scrapeTimeout"], "4s");
    let last = json!({"targetLabel": "cluster", "replacement": "a"});
    assert_eq!(endpoint["relabelings"][3], last);
    assert_eq!(endpoint["metricRelabelings"][0]["regex"], "pod");
    assert!(
        monitor.data["spec"]["selector"]["matchLabels"]
            .get("release")
            .is_none()
    );
}

#[test]
fn annotations_stand_in_until_something_says_that_the_monitor_is_selected() {
    let annotated = |monitoring: Value, known: bool| {
        let mut relay = undecided(json!({"monitoring": monitoring}));
        if known {
            relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
        }
        let services = relay.build().services;
        services[0].metadata.annotations.is_some()
    };
    let labels = json!({"labels": {"release": "monitoring"}});
    assert!(annotated(json!({}), false) && annotated(json!({}), true));
    assert!(annotated(labels.clone(), false) && !annotated(labels, true));
    assert!(!annotated(json!({"serviceMonitor": "Enabled"}), true));
}

#[test]
fn missing_targets_are_an_alert_only_where_there_should_be_some() {
    let alerts = |spec: Value| {
        let mut relay = undecided(spec);
        relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
        let rule = object(MonitoringKind::PrometheusRule, &relay).unwrap();
        let text = rule.data.to_string();
        (
            text.contains("PeerRelayNotScraped"),
            text.contains("PeerRelayDown"),
        )
    };
    assert_eq!(alerts(json!({})), (true, true));
    let unseen = json!({"monitoring": {"serviceMonitor": "Disabled"}});
    assert_eq!(alerts(unseen), (false, true));
    assert_eq!(alerts(json!({"enabled": false})), (false, true));
}

#[test]
fn nothing_is_scraped_when_the_user_wants_nothing() {
    let off = json!({"serviceMonitor": "Disabled", "prometheusRule": "Disabled", "dashboards": "Disabled"});
    let mut relay = undecided(json!({"monitoring": off}));
    relay.plan.monitoring_kinds = MonitoringKind::ALL.into();
    assert!(relay.build().services.is_empty());
    assert!(
        MonitoringKind::ALL
            .iter()
            .all(|kind| object(*kind, &relay).is_none())
    );
    let config =
        |relay: &Fixture| relay.build().config_maps[0].data.clone().unwrap()["relay.yaml"].clone();
    assert!(!config(&relay).contains("metricsOnNode"));
    assert!(config(&undecided(json!({}))).contains("metricsOnNode: true"));
}

#[test]
fn a_disabled_peer_relay_runs_nothing_and_keeps_what_costs_nothing() {
    let region = |name: &str, kind: &str| json!({"name": name, "clients": ["tag:a"], "exposure": {"type": kind}});
    let regions = json!([
        region("host", "HostNetwork"),
        region("port", "NodePort"),
        region("balanced", "LoadBalancer"),
    ]);
    let built = |enabled: bool| {
        let mut relay = undecided(json!({"enabled": enabled, "regions": regions}));
        relay.plan.regions[2].nodes.chosen = Some(vec!["n1".into()]);
        relay.build()
    };
    let (on, off) = (built(true), built(false));
    let names = |resources: &Prepared| -> Vec<_> {
        let sets = resources.daemon_sets.iter();
        sets.map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(&on), names(&off));
    assert!(!on.daemon_sets.iter().any(is_off));
    assert!(off.daemon_sets.iter().all(is_off));
    let services = |resources: &Prepared| -> Vec<_> {
        let services = resources.services.iter().map(ResourceExt::name_any);
        services.filter(|name| name != "edge-metrics").collect()
    };
    assert_eq!(services(&on).len(), 2);
    assert_eq!(services(&off), ["edge-port"]);
    assert_eq!(on.config_maps, off.config_maps);
    assert_eq!(on.roles, off.roles);
}

fn object(kind: MonitoringKind, relay: &Fixture) -> Option<kube::api::DynamicObject> {
    let mut objects = relay.build().monitoring.into_iter();
    objects.find(|found| found.kind == kind)?.object
}
