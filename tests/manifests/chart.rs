//! Chart, rendered with helm. `PEERRELAY_HELM` names the program, as in `cargo dev test`.

use std::{path::Path, process::Command};

use k8s_openapi::{
    api::networking::v1::NetworkPolicySpec,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use peerrelay::{
    crd,
    monitoring::{Shown, dashboard},
    operator::{
        build,
        defaults::{self, Defaults},
        plan::plan,
        referred_credential::Referred,
        validate::validate,
        view::ClusterView,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{hold, root, update_sources, values};

pub(crate) const RELEASE: &str = "peerrelay-operator";
const NAMESPACE: &str = "peerrelay-system";
const CHART: &str = "charts/peerrelay-operator";
const NAMESPACE_YAML: &str = "deploy/kustomize/base/namespace.yaml";
const OPERATOR_YAML: &str = "deploy/kustomize/base/operator.yaml";
const INSTALL_YAML: &str = "deploy/install.yaml";

#[test]
fn values_schema_is_what_the_type_says() {
    hold(values::SCHEMA, &values::schema());
}

#[test]
fn manifests_are_the_rendered_chart() {
    let Some(rendered) = render(&[]) else { return };
    hold(OPERATOR_YAML, &rendered.unwrap());
    // As Helm would mark them: it takes over what was applied before, if it is marked so.
    let mark =
        |what: &str, value: &str| format!("commonAnnotations.meta\\.helm\\.sh/{what}={value}");
    let marks = [
        mark("release-name", RELEASE),
        mark("release-namespace", NAMESPACE),
    ];
    let rendered = render(&["--set", &marks[0], "--set", &marks[1]]).unwrap();
    let namespace = std::fs::read_to_string(root().join(NAMESPACE_YAML)).unwrap();
    hold(INSTALL_YAML, &format!("{namespace}{}", rendered.unwrap()));
}

#[test]
fn chart_installs_the_definitions_as_they_are() {
    let Some(rendered) = render(&["--set", "crds.keep=false"]) else {
        return;
    };
    // Read back, because helm writes numbers in its own way.
    let of_chart: Vec<CustomResourceDefinition> = objects(&rendered.unwrap())
        .into_iter()
        .filter(|object| object["kind"] == "CustomResourceDefinition")
        .map(|object| serde_json::from_value(object).unwrap())
        .collect();
    assert_eq!(of_chart, crd::all());
}

#[test]
fn wrong_values_are_refused_by_name() {
    for (value, word) in [
        ("replicas=2", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("replicaCount=-1", "replicaCount"),
        ("log.format=xml", "format"),
        ("networkPolicy.apiServerPorts={0}", "apiServerPorts"),
        ("metrics.labels.release=a b", "release"),
        ("relayDefaults.monitoring.interval=soon", "interval"),
        ("relayDefaults.monitoring.lables.a=b", "lables"),
    ] {
        let Some(rendered) = render(&["--set", value]) else {
            return;
        };
        let error = rendered.expect_err(value);
        assert!(error.contains(word), "{value}: {error}");
    }
}

#[test]
fn labels_that_a_prometheus_selects_by_are_named_once() {
    let rules = json!([{"targetLabel": "cluster", "replacement": "a"}]);
    let rules = format!("relayDefaults.monitoring.relabelings={rules}");
    let Some(rendered) = render(&[
        "--set",
        "metrics.labels.release=monitoring,relayDefaults.monitoring.labels.team=net",
        "--set",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
        "--set",
        "relayDefaults.monitoring.interval=15s,metrics.prometheusRule.labels.role=alerts",
        "--set-json",
        &rules,
    ]) else {
        return;
    };
    let objects = objects(&rendered.unwrap());
    let of_kind = |kind: &str| objects.iter().find(|o| o["kind"] == kind).unwrap();
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        let labels = &of_kind(kind)["metadata"]["labels"];
        assert_eq!(labels["release"], "monitoring", "{kind}");
        assert_eq!(labels["team"], Value::Null, "{kind}");
    }
    let role = &of_kind("PrometheusRule")["metadata"]["labels"]["role"];
    assert_eq!(role, "alerts");
    let container = &of_kind("Deployment")["spec"]["template"]["spec"]["containers"][0];
    let environment = container["env"].as_array().unwrap();
    let value = |name: &str| {
        let name = format!("PEERRELAY_RELAY_MONITORING_{name}");
        let found = environment.iter().find(|entry| entry["name"] == name);
        found.map(|entry| entry["value"].as_str().unwrap().to_owned())
    };
    let labels = value("LABELS").unwrap();
    let mut labels: Vec<_> = labels
        .split(',')
        .map(|l| defaults::label(l).unwrap())
        .collect();
    labels.sort();
    let pairs = [("release", "monitoring"), ("team", "net")];
    assert_eq!(labels, pairs.map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(value("INTERVAL").as_deref(), Some("15s"));
    assert_eq!(value("SCRAPE_TIMEOUT"), None);
    let rules = defaults::relabelings(&value("RELABELINGS").unwrap()).unwrap();
    assert_eq!(rules[0].target_label.as_deref(), Some("cluster"));
}

#[test]
fn one_dashboard_shows_all_peer_relays() {
    let Some(plain) = render(&[]) else { return };
    let board = |rendered: &str| {
        let objects = objects(rendered);
        let is_board = |o: &&Value| !o["metadata"]["labels"]["grafana_dashboard"].is_null();
        objects.iter().find(is_board).cloned()
    };
    let map = board(&plain.unwrap()).unwrap();
    let text = map["data"]["peer-relays.json"].as_str().unwrap();
    let shown: Value = serde_json::from_str(text).unwrap();
    assert_eq!(shown, dashboard(Shown::All));
    let off = render(&["--set", "metrics.dashboard.enabled=false"]).unwrap();
    assert_eq!(board(&off.unwrap()), None);
}

#[test]
fn operator_is_closed_off_by_a_network_policy_on_request() {
    let Some(plain) = render(&[]) else { return };
    assert!(!plain.unwrap().contains("NetworkPolicy\n"));
    let rendered = render(&["--set", "networkPolicy.enabled=true"]).unwrap();
    let objects = objects(&rendered.unwrap());
    let of_kind = |kind: &str| objects.iter().find(|o| o["kind"] == kind).unwrap();
    let (policy, deployment) = (of_kind("NetworkPolicy"), of_kind("Deployment"));
    let spec: NetworkPolicySpec = serde_json::from_value(policy["spec"].clone()).unwrap();
    assert_eq!(
        policy["spec"]["podSelector"]["matchLabels"],
        deployment["spec"]["selector"]["matchLabels"]
    );
    let ingress = &spec.ingress.as_ref().unwrap()[0];
    assert_eq!(ingress.from.as_ref().map(Vec::len), Some(1));
    let egress = spec.egress.unwrap();
    let ports = egress.iter().map(|rule| rule.ports.as_ref().unwrap().len());
    assert_eq!(ports.collect::<Vec<_>>(), [2, 2], "API server, resolver");
    assert!(egress.iter().all(|rule| rule.to.is_none()));
}

#[test]
fn operator_reaches_only_the_given_api_server_and_any_resolver() {
    let server = json!([{"ipBlock": {"cidr": "192.0.2.1/32"}}]);
    let place = format!("networkPolicy.apiServerTo={server}");
    let on = ["--set", "networkPolicy.enabled=true", "--set-json", &place];
    let Some(rendered) = render(&on) else { return };
    let objects = objects(&rendered.unwrap());
    let policy = objects.iter().find(|o| o["kind"] == "NetworkPolicy");
    let egress = &policy.unwrap()["spec"]["egress"];
    assert_eq!(egress[0]["to"], server);
    assert_eq!(egress[1]["to"], Value::Null);
}

#[test]
fn operator_may_give_relays_what_it_gives_them() {
    let Some(rendered) = render(&[]) else { return };
    let objects = objects(&rendered.unwrap());
    let role = objects
        .iter()
        .find(|o| o["kind"] == "ClusterRole" && o["metadata"]["name"] == "peerrelay-operator");
    let own = role.unwrap()["rules"].as_array().unwrap().clone();
    let relay = serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "PeerRelay",
        "metadata": {"name": "edge", "namespace": "relays", "uid": "u"},
        "spec": {"tailnet": {"authKey": {"secretName": "s"}},
                 "regions": [{"name": "r", "clients": ["tag:c"]}]},
    }));
    let spec = validate(&relay.unwrap(), &Referred::Unknown, &Defaults::default()).unwrap();
    let plan = plan(&spec, &ClusterView::default(), Timestamp::UNIX_EPOCH);
    let objects = build::build(&spec, &plan).stage;
    for rule in objects.roles[0].rules.as_ref().unwrap() {
        let rule = serde_json::to_value(rule).unwrap();
        for verb in rule["verbs"].as_array().unwrap() {
            let covers = |own: &Value| {
                let resources = own["resources"].as_array().unwrap();
                let wanted = rule["resources"].as_array().unwrap();
                own["apiGroups"] == rule["apiGroups"]
                    && wanted.iter().all(|resource| resources.contains(resource))
                    && own["verbs"].as_array().unwrap().contains(verb)
            };
            assert!(
                own.iter().any(covers),
                "the operator lacks {verb} of {rule}"
            );
        }
    }
    let secrets = own
        .iter()
        .any(|rule| rule["resources"].to_string().contains("secrets"));
    assert!(!secrets, "the operator may read Secrets");
}

/// The image under which the manifests name what `cargo dev image` makes.
const IMAGE: &str = "image.repository=localhost/peerrelay";

/// `None` without helm, which only CI must have.
pub(crate) fn render(arguments: &[&str]) -> Option<Result<String, String>> {
    let with_image = [&["--set", IMAGE], arguments].concat();
    render_as(RELEASE, &with_image)
}

/// The same under the name of a release, without the image.
pub(crate) fn render_as(release: &str, arguments: &[&str]) -> Option<Result<String, String>> {
    let template = ["template", release, CHART, "--namespace", NAMESPACE];
    helm(&[&template, arguments].concat())
}

/// Runs helm; `None` without it.
pub(crate) fn helm(arguments: &[&str]) -> Option<Result<String, String>> {
    let helm = skips::program("PEERRELAY_HELM")?;
    update_sources();
    Some(run(&helm, arguments))
}

/// Runs a helm in the repository.
pub(crate) fn run(helm: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(helm)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("helm starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("helm writes UTF-8");
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    let objects = documents.map(|document| Value::deserialize(document).expect("helm writes YAML"));
    objects.filter(|object| !object.is_null()).collect()
}
