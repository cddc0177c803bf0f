//! Installation and removal of the operator, in each supported way.

use std::fs;

use anyhow::{Context, Result, ensure};
use rig::{
    cluster::PEERRELAY,
    deployment::{Deployment, condition, image_values},
    names::{NAMESPACE, OPERATOR_NAMESPACE},
    progress::Progress,
    state::repository,
    tools::Tools,
};
use serde_json::{Value, json};

use super::apply_server_side;
use crate::scenarios::{EDGE, reset};

/// Name and namespace of another release.
const VIEW: &str = "view";
const SPARE: &str = "spare-system";
/// Namespace into which kustomize moves the operator.
const MOVED: &str = "moved-system";
/// Kinds of everything that the chart makes, and the operator for itself.
const KINDS: &str = "clusterroles,clusterrolebindings,roles,rolebindings,serviceaccounts,services,\
    deployments,replicasets,pods,configmaps,secrets,poddisruptionbudgets,networkpolicies,leases,\
    validatingadmissionpolicies,validatingadmissionpolicybindings,endpointslices";
/// Kinds of which a leftover object would be in the way of another install.
const LABELLED: &str = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,\
    clusterroles,clusterrolebindings,poddisruptionbudgets,validatingadmissionpolicies,\
    validatingadmissionpolicybindings";
/// Kinds whose objects may be in the namespace without a label.
const HERE: &str = "configmaps,leases,pods,replicasets,secrets,serviceaccounts";
/// Objects that Kubernetes itself puts into each namespace.
const OF_KUBERNETES: [&str; 2] = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
const RELEASE: &str = "peerrelay-operator";

/// Runs the scenario, and installs the operator for the other scenarios again, also after a failure.
pub(super) fn run(deployment: &Deployment<'_>) -> Result<String> {
    Tools::build_only("helm3", &Progress::stderr())?;
    reset(deployment)?;
    let seen = by_each_way(deployment);
    if seen.is_err() {
        clear(deployment);
    }
    let again = Deployment::install(deployment.rig)
        .context("failed to install the operator again")
        .and_then(|deployment| deployment.write_secret(&deployment.rig.tailnet.auth_key()?));
    let seen = seen?;
    again.map(|()| seen)
}

/// Removes leftovers of a failure, as far as possible.
fn clear(deployment: &Deployment<'_>) {
    let rig = deployment.rig;
    rig.helm(["uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait"])
        .ok();
    rig.helm3(["uninstall", VIEW, "-n", SPARE, "--wait"]).ok();
    rig.kubectl(["delete", "namespace", MOVED, SPARE, "--ignore-not-found"])
        .ok();
    let label = format!("app.kubernetes.io/instance={RELEASE}");
    rig.kubectl(["delete", LABELLED, "-A", "-l", &label, "--ignore-not-found"])
        .ok();
}

fn by_each_way(deployment: &Deployment<'_>) -> Result<String> {
    uninstalled(deployment)?;
    view(deployment)?;
    kustomized(deployment)?;
    with_definitions(deployment)?;
    adopted(deployment)?;
    Ok(
        "Helm 4, Helm 3 as `view` in other namespaces, kustomize, Helm without kept definitions, \
         install.yaml and then Helm"
            .into(),
    )
}

/// Helm 4 removes everything except the definitions, PeerRelays and relays.
fn uninstalled(deployment: &Deployment<'_>) -> Result<()> {
    let before = relays(deployment)?;
    deployment
        .rig
        .helm(["uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait"])?;
    gone(deployment, OPERATOR_NAMESPACE, RELEASE)?;
    ensure!(
        relays(deployment)? == before,
        "relays did not stay as they were"
    );
    Ok(())
}

/// Helm 3 installs a release with the name of a built-in role, for one namespace, beside the
/// definitions that the other release has kept.
fn view(deployment: &Deployment<'_>) -> Result<()> {
    let role = |deployment: &Deployment<'_>| -> Result<Value> {
        let text = deployment
            .rig
            .kubectl(["get", "clusterrole", VIEW, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    };
    let built_in = role(deployment)?["metadata"]["uid"].clone();
    let chart = repository().join("charts/peerrelay-operator");
    let chart = chart.display().to_string();
    let [repository, tag] = image_values(PEERRELAY);
    let watched = format!("watchNamespaces={{{NAMESPACE}}}");
    let words = |command: &'static str| {
        vec![
            command,
            VIEW,
            &chart,
            "-n",
            SPARE,
            "--set",
            &repository,
            "--set",
            &tag,
            "--set",
            "image.pullPolicy=Never",
            "--set",
            &watched,
            "--wait",
            "--timeout",
            "120s",
        ]
    };
    let install = [words("install"), vec!["--create-namespace"]].concat();
    deployment.rig.helm3(install)?;
    ensure!(
        role(deployment)?["metadata"]["uid"] == built_in
            && role(deployment)?["metadata"]["labels"]["helm.sh/chart"].is_null(),
        "the built-in ClusterRole is another"
    );
    elsewhere(
        deployment,
        &json!({"template": {"labels": {"rig": "view"}}}),
    )?;
    deployment.rig.helm3(words("upgrade"))?;
    deployment
        .rig
        .helm3(["uninstall", VIEW, "-n", SPARE, "--wait"])?;
    gone(deployment, SPARE, VIEW)
}

/// The operator acts in its namespace, and does not touch a PeerRelay of another one.
fn elsewhere(deployment: &Deployment<'_>, spec: &Value) -> Result<()> {
    let mut other = deployment.peer_relay("other", &json!({}))?;
    other["metadata"]["namespace"] = json!("default");
    deployment.rig.apply(&other.to_string())?;
    deployment.apply(EDGE, spec)?;
    deployment.wait_ready(EDGE)?;
    let text =
        deployment
            .rig
            .kubectl(["get", "peerrelay", "other", "-n", "default", "-o", "json"])?;
    let other: Value = serde_json::from_str(&text)?;
    ensure!(
        condition(&other, "Ready").is_empty(),
        "a PeerRelay of another namespace was reconciled"
    );
    deployment
        .rig
        .kubectl(["delete", "peerrelay", "other", "-n", "default"])
        .map(drop)
}

/// An overlay moves the operator to another namespace and gives it another image. Relays run that
/// image, and the operator may write into their reports. `kubectl delete` leaves nothing.
fn kustomized(deployment: &Deployment<'_>) -> Result<()> {
    let base = repository().join("deploy/kustomize/base");
    let overlay = deployment.rig.scratch("overlay/top")?;
    let copy = deployment.rig.scratch("overlay/base")?;
    for file in fs::read_dir(base)? {
        let file = file?;
        fs::copy(file.path(), copy.join(file.file_name()))?;
    }
    let (name, tag) = PEERRELAY.rsplit_once(':').context("no tag")?;
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["../base"], "namespace": MOVED,
        "images": [{"name": "localhost/peerrelay", "newName": name, "newTag": tag}],
    });
    fs::write(
        overlay.join("kustomization.yaml"),
        kustomization.to_string(),
    )?;
    let overlay = overlay.display().to_string();
    let rendered = deployment.rig.kubectl(["kustomize", &overlay])?;
    apply_server_side(deployment, &rendered)?;
    deployment.apply(EDGE, &json!({"template": {"labels": {"rig": "kustomize"}}}))?;
    deployment.wait_ready(EDGE)?;
    let set = deployment.object("daemonset", &format!("{EDGE}-office"))?;
    let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(*image == PEERRELAY, "relays run {image}");
    deployment.eventually("the operator writes into the reports of relays", || {
        let verified = deployment.condition(EDGE, "EndpointsVerified")?;
        ensure!(
            verified == "True/Verified",
            "EndpointsVerified is '{verified}'"
        );
        Ok(())
    })?;
    deployment
        .rig
        .kubectl(["delete", "-k", &overlay, "--wait", "--timeout=90s"])?;
    gone(deployment, MOVED, RELEASE)?;
    relays_are_gone(deployment)
}

/// Helm installs a cluster that has no definitions yet, and with `crds.keep: false` removes them again, with all
/// PeerRelays and relays.
fn with_definitions(deployment: &Deployment<'_>) -> Result<()> {
    ensure!(
        !definitions(deployment)?.contains("peerrelay.dev"),
        "another installation has left definitions"
    );
    installed(deployment, &["--set", "crds.keep=false"])?;
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    deployment
        .rig
        .helm(["uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait"])?;
    gone(deployment, OPERATOR_NAMESPACE, RELEASE)?;
    deployment.eventually("the definitions are gone", || {
        let left = definitions(deployment)?;
        ensure!(!left.contains("peerrelay.dev"), "left: {left}");
        Ok(())
    })?;
    relays_are_gone(deployment)
}

/// Names of the definitions of the cluster.
fn definitions(deployment: &Deployment<'_>) -> Result<String> {
    deployment.rig.kubectl(["get", "crds", "-o", "name"])
}

/// Helm 4 installs the chart with these arguments besides the image.
fn installed(deployment: &Deployment<'_>, more: &[&str]) -> Result<()> {
    let chart = repository().join("charts/peerrelay-operator");
    let chart = chart.display().to_string();
    let [repository, tag] = image_values(PEERRELAY);
    let words = [
        "install",
        RELEASE,
        &chart,
        "-n",
        OPERATOR_NAMESPACE,
        "--set",
        &repository,
        "--set",
        &tag,
        "--wait",
        "--timeout",
        "120s",
    ];
    deployment.rig.helm(words.iter().chain(more))?;
    Ok(())
}

/// Waits until no object that an operator has created for relays is left.
fn relays_are_gone(deployment: &Deployment<'_>) -> Result<()> {
    deployment.eventually("relays are gone with the definitions", || {
        let label = "app.kubernetes.io/managed-by=peerrelay-operator";
        let left = deployment.rig.kubectl([
            "get",
            "daemonsets,pods,configmaps,services,roles,rolebindings,serviceaccounts",
            "-n",
            NAMESPACE,
            "-l",
            label,
            "-o",
            "name",
        ])?;
        ensure!(left.is_empty(), "left: {left}");
        Ok(())
    })
}

/// Helm adopts the objects that `kubectl apply` of `install.yaml` has created.
fn adopted(deployment: &Deployment<'_>) -> Result<()> {
    let text = fs::read_to_string(repository().join("deploy/install.yaml"))?;
    let named = concat!("localhost/peerrelay:", env!("CARGO_PKG_VERSION"));
    ensure!(text.contains(named), "install.yaml does not name {named}");
    apply_server_side(deployment, &text.replace(named, PEERRELAY))?;
    installed(deployment, &[])?;
    deployment
        .rig
        .helm(["uninstall", RELEASE, "-n", OPERATOR_NAMESPACE, "--wait"])?;
    gone(deployment, OPERATOR_NAMESPACE, RELEASE)
}

/// Fails unless nothing of a release is left in its namespace and in the cluster.
fn gone(deployment: &Deployment<'_>, namespace: &str, release: &str) -> Result<()> {
    let label = format!("app.kubernetes.io/instance={release}");
    deployment.eventually("nothing is left of the operator", || {
        let labelled = ["get", KINDS, "-A", "-l", &label, "-o", "name"];
        let mut left = deployment.rig.kubectl(labelled)?;
        // Some objects, such as the lease, have no label.
        left += &deployment
            .rig
            .kubectl(["get", HERE, "-n", namespace, "-o", "name"])?;
        let ours = |line: &&str| !OF_KUBERNETES.contains(line);
        let left: Vec<_> = left.lines().filter(ours).collect();
        ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok(())
    })
}

/// Names of the objects that the operator has created for the relays, and of their pods.
fn relays(deployment: &Deployment<'_>) -> Result<Vec<String>> {
    let all = deployment.list("peerrelays,daemonsets,configmaps,pods", EDGE)?;
    let name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["uid"]);
    let names: Vec<_> = all.iter().map(name).collect();
    ensure!(names.len() > 3, "{names:?}");
    Ok(names)
}
