//! The kustomization and its components, built by kubectl and held to the chart: `PEERRELAY_KUBECTL`
//! and `PEERRELAY_HELM` name the programs, as `cargo dev test` does.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

use crate::{
    chart::{objects, render, render_as},
    hold, root,
};

const KUSTOMIZE: &str = "deploy/kustomize";
/// Effect of a component, and the values of the chart with the same effect.
const ADDED: [(&str, &str); 2] = [
    (
        "monitoring/monitoring.yaml",
        "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true",
    ),
    (
        "network-policy/network-policy.yaml",
        "networkPolicy.enabled=true",
    ),
];

#[test]
fn components_add_what_the_chart_adds() {
    let Some(plain) = render(&[]) else { return };
    let plain = by_name(objects(&plain.unwrap()));
    for (file, values) in ADDED {
        let more = objects(&render(&["--set", values]).unwrap().unwrap());
        let added: Vec<_> = (by_name(more).into_iter())
            .filter(|(name, object)| plain.get(name) != Some(object))
            .map(|(_, object)| serde_yaml::to_string(&object).unwrap())
            .collect();
        assert!(!added.is_empty(), "{values} adds nothing");
        hold(
            &format!("{KUSTOMIZE}/components/{file}"),
            &added.join("---\n"),
        );
    }
}

#[test]
fn the_base_has_the_objects_of_the_chart_and_of_install_yaml() {
    let Some(base) = build("base") else { return };
    let install = std::fs::read_to_string(root().join("deploy/install.yaml")).unwrap();
    let mut install = objects(&install);
    install.iter_mut().for_each(unmarked);
    assert_eq!(by_name(base.clone()), by_name(install));
    let Some(chart) = render(&[]) else { return };
    let mut chart = by_name(objects(&chart.unwrap()));
    let namespace = base.into_iter().find(|o| o["kind"] == "Namespace").unwrap();
    chart.insert(name(&namespace), namespace.clone());
    let base = by_name(build("base").unwrap());
    assert_eq!(base, chart);
}

#[test]
fn the_overlay_is_the_chart_with_the_values_of_its_components() {
    let Some(mut overlay) = build("overlays/operator") else {
        return;
    };
    for object in &mut overlay {
        let text = object.to_string();
        for stale in ["peerrelay-system", "localhost/"] {
            assert!(!text.contains(stale), "{} has {stale}", name(object));
        }
        let kind = object["kind"].as_str().unwrap();
        if kind == "CustomResourceDefinition" {
            kept(object);
        } else if kind.starts_with("ValidatingAdmissionPolicy") {
            // kustomize does not know that they have none; the API server drops it.
            object["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("namespace");
        }
    }
    let (namespace, overlay) = overlay
        .into_iter()
        .partition::<Vec<_>, _>(|object| object["kind"] == "Namespace");
    assert_eq!(namespace[0]["metadata"]["name"], "relay-operator");
    let values = ADDED.map(|(_, values)| values).join(",");
    let Some(chart) = render_as(
        "peerrelay-operator",
        &[
            "--namespace",
            "relay-operator",
            "--values",
            "charts/peerrelay-operator/values-ha.yaml",
            "--set",
            "image.repository=registry.example.com/peerrelay",
            "--set",
            &values,
        ],
    ) else {
        return;
    };
    assert_eq!(by_name(overlay), by_name(objects(&chart.unwrap())));
}

#[test]
fn definitions_operator_and_peer_relays_come_in_waves() {
    let Some(all) = build("overlays/production") else {
        return;
    };
    for object in &all {
        let wave = &object["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"];
        let wanted = match object["kind"].as_str().unwrap() {
            "Namespace" | "CustomResourceDefinition" => Value::from("-1"),
            "PeerRelay" => Value::from("1"),
            _ => Value::Null,
        };
        assert_eq!(wave, &wanted, "{}", name(object));
    }
    assert!(all.iter().any(|object| object["kind"] == "PeerRelay"));
}

/// The objects of a kustomization; `None` without kubectl, which only CI must have.
fn build(dir: &str) -> Option<Vec<Value>> {
    let kubectl = skips::program("PEERRELAY_KUBECTL")?;
    crate::update_sources();
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(root().join(KUSTOMIZE).join(dir))
        .output()
        .expect("kubectl starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{dir}: {said}");
    Some(objects(std::str::from_utf8(&output.stdout).unwrap()))
}

/// Removes the marks by which Flux and Argo CD keep a definition, which must be there.
fn kept(definition: &mut Value) {
    let annotations = definition["metadata"]["annotations"]
        .as_object_mut()
        .unwrap();
    for (key, value) in [
        ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
        (
            "argocd.argoproj.io/sync-options",
            "Prune=false,Delete=false",
        ),
    ] {
        let found = annotations.remove(key);
        assert_eq!(found.as_ref().and_then(Value::as_str), Some(value), "{key}");
    }
}

/// Removes the marks by which Helm takes objects over.
fn unmarked(object: &mut Value) {
    let metadata = object["metadata"].as_object_mut().unwrap();
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        annotations.retain(|key, _| !key.starts_with("meta.helm.sh/"));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

fn by_name(mut objects: Vec<Value>) -> BTreeMap<String, Value> {
    // helm writes documents that have only a comment.
    objects.retain(|object| !object.is_null());
    let count = objects.len();
    let all: BTreeMap<_, _> = objects.into_iter().map(|o| (name(&o), o)).collect();
    assert_eq!(all.len(), count, "two objects have a name");
    all
}

fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let kind = text(&object["kind"]);
    format!(
        "{kind} {} {}",
        text(&metadata["namespace"]),
        text(&metadata["name"])
    )
}
