//! Faults that `kubectl peer-relay check` names, each with the fix.

use std::{collections::BTreeSet, os::unix::fs::symlink, process::Command};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program_in, run},
    deployment::Deployment,
    names::OPERATOR_NAMESPACE,
    net::ROUTER,
    spec,
    tailnet::DEFAULT_POLICY,
};
use serde_json::{Value, json};

use super::{
    EDGE, Scenario,
    grants::{clients_only, policy},
    reset,
};

/// Namespace whose Pod Security level forbids relays.
const BASELINE: &str = "relays-baseline";
/// Definition that gets the checksum of another version.
const DEFINITION: &str = "tailnetcredentials.peerrelay.dev";
const CHECKSUM: &str = "peerrelay.dev/spec-checksum";
const OPERATOR: &str = "deployment/peerrelay-operator";
/// Value of a variable that a report must not have.
const IN_A_VARIABLE: &str = "of-a-variable-4b1d";
/// Faults that the scenario causes.
const SEEDED: [&str; 7] = [
    "AuthKeyMissing",
    "DefinitionDiffers",
    "GrantsMissing",
    "HostPortConflict",
    "NoNodes",
    "OperatorScaledDown",
    "PodSecurityForbidden",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "kubectl peer-relay check names seeded faults, each with the fix, and finds nothing in \
               a cluster that works",
        run: seeded,
    }]
}

fn seeded(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.soon("nothing is wrong", || {
        let report = check(deployment)?;
        ensure!(report["ok"] == true, "{report:#}");
        Ok(())
    })?;
    let replicas = replicas(deployment)?;
    let checksum = checksum(deployment)?;
    let found = seed(deployment, replicas).and_then(|()| {
        let mut last = Value::Null;
        let found = deployment.eventually("every fault is named", || {
            last = check(deployment)?;
            let missing: Vec<_> = SEEDED.iter().filter(|name| !has(&last, name)).collect();
            ensure!(missing.is_empty(), "{missing:?} are not in {last:#}");
            Ok(())
        });
        found.and_then(|()| reported(deployment)).map(|()| last)
    });
    scale(deployment, replicas)?;
    annotate(deployment, &checksum)?;
    deployment.rig.tailnet.write_policy(DEFAULT_POLICY)?;
    for name in ["no-secret", "no-nodes", "taken-port"] {
        deployment.delete(name)?;
    }
    deployment.rig.kubectl([
        "delete",
        "namespace",
        BASELINE,
        "--ignore-not-found",
        "--wait=false",
    ])?;
    let report = found?;
    ensure!(report["ok"] == false, "the report says ok");
    remedies(&report)?;
    let all: BTreeSet<_> = findings(&report)
        .filter_map(|f| f["fault"].as_str())
        .collect();
    Ok(format!(
        "{} faults: {}",
        all.len(),
        all.into_iter().collect::<Vec<_>>().join(", ")
    ))
}

fn seed(deployment: &Deployment<'_>, replicas: u64) -> Result<()> {
    ensure!(replicas > 0, "the operator has no replica");
    annotate(deployment, "of-another-version")?;
    let tailnet = &deployment.rig.tailnet;
    tailnet.write_policy(&policy(&clients_only(), &json!({})))?;
    let mut secret = deployment.peer_relay("no-secret", &json!({"port": 40_210}))?;
    secret["spec"]["tailnet"]["authKey"]["secretName"] = json!("no-such-secret");
    deployment.rig.apply(&secret.to_string())?;
    let nowhere = json!({"nodeSelector": {"kubernetes.io/hostname": "no-such-node"}});
    let mut nodes = spec::region("placement", nowhere);
    nodes["port"] = json!(40_220);
    let relay =
        json!({"name": "relay", "env": [{"name": "EXAMPLE_TOKEN", "value": IN_A_VARIABLE}]});
    nodes["template"] = json!({"podOverrides": {"containers": [relay]}});
    deployment.apply("no-nodes", &nodes)?;
    // Relays of the other PeerRelay have the port.
    deployment.apply("taken-port", &json!({}))?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": BASELINE, "labels": {
            "pod-security.kubernetes.io/enforce": "baseline"}},
    });
    deployment.rig.apply(&namespace.to_string())?;
    let mut forbidden = deployment.peer_relay(EDGE, &json!({"port": 40_230}))?;
    forbidden["metadata"]["namespace"] = json!(BASELINE);
    deployment.rig.apply(&forbidden.to_string())?;
    // The operator reports the others first.
    deployment.eventually("the operator has reported them", || {
        let report = check(deployment)?;
        let by_operator = SEEDED.iter().filter(|name| **name != "OperatorScaledDown");
        let missing: Vec<_> = by_operator.filter(|name| !has(&report, name)).collect();
        ensure!(missing.is_empty(), "{missing:?} are not in {report:#}");
        Ok(())
    })?;
    scale(deployment, 0)
}

/// Fails unless the remedies are the commands and lines that mend the faults.
fn remedies(report: &Value) -> Result<()> {
    for (fault, subject, remedy) in [
        (
            "AuthKeyMissing",
            "PeerRelay relays/no-secret",
            "kubectl create secret generic no-such-secret -n relays",
        ),
        (
            "NoNodes",
            "PeerRelay relays/no-nodes",
            "placement.nodeSelector",
        ),
        (
            "HostPortConflict",
            "PeerRelay relays/taken-port",
            "change spec.port",
        ),
        (
            "GrantsMissing",
            "PeerRelay relays/edge",
            "grants.hujson of the ConfigMap edge-grants",
        ),
        (
            "PodSecurityForbidden",
            "PeerRelay relays-baseline/edge",
            "kubectl label namespace relays-baseline",
        ),
        (
            "DefinitionDiffers",
            "CustomResourceDefinition tailnetcredentials",
            "kubectl apply --server-side",
        ),
        (
            "OperatorScaledDown",
            "Deployment peerrelay-system/peerrelay-operator",
            "kubectl scale",
        ),
    ] {
        let is_right = |finding: &Value| {
            let text = |field: &str| finding[field].as_str().unwrap_or_default();
            text("fault") == fault
                && text("subject").starts_with(subject)
                && text("remedy").contains(remedy)
        };
        ensure!(
            findings(report).any(is_right),
            "no {fault} of {subject} with {remedy}: {report:#}"
        );
    }
    Ok(())
}

/// Fails unless the report for others has faults, objects, events and logs, and no secret.
fn reported(deployment: &Deployment<'_>) -> Result<()> {
    let report = run(plugin(deployment)?.arg("report"))?;
    for part in [
        "fault: AuthKeyMissing",
        "name: no-secret",
        "EXAMPLE_TOKEN",
        "involvedObject:",
        "network map received",
    ] {
        ensure!(report.contains(part), "no '{part}' in {report}");
    }
    for secret in [IN_A_VARIABLE, "tskey-"] {
        ensure!(!report.contains(secret), "'{secret}' in {report}");
    }
    Ok(())
}

fn findings(report: &Value) -> impl Iterator<Item = &Value> {
    let checks = report["checks"].as_array().into_iter().flatten();
    checks.flat_map(|check| check["findings"].as_array().into_iter().flatten())
}

fn has(report: &Value, fault: &str) -> bool {
    findings(report).any(|finding| finding["fault"] == fault)
}

/// Runs the plugin through kubectl. Its exit code is 1 if something is wrong.
fn check(deployment: &Deployment<'_>) -> Result<Value> {
    let mut command = plugin(deployment)?;
    let output = command.args(["check", "-o", "json"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("check says {said}"))?;
    let code = if report["ok"] == true { 0 } else { 1 };
    ensure!(
        output.status.code() == Some(code),
        "{}: {report:#}",
        output.status
    );
    Ok(report)
}

/// The plugin of kubectl, as kubectl finds it in `PATH`.
pub(super) fn plugin(deployment: &Deployment<'_>) -> Result<Command> {
    let link = deployment.rig.scratch("plugin")?.join("kubectl-peer_relay");
    if !link.exists() {
        symlink(deployment.rig.program()?, &link)?;
    }
    let mut command = program_in(ROUTER, &link);
    command.env("KUBECONFIG", deployment.rig.kubeconfig());
    Ok(command)
}

fn replicas(deployment: &Deployment<'_>) -> Result<u64> {
    let path = "jsonpath={.spec.replicas}";
    let text = deployment
        .rig
        .kubectl(["get", OPERATOR, "-n", OPERATOR_NAMESPACE, "-o", path])?;
    text.trim().parse().context("no number of replicas")
}

fn scale(deployment: &Deployment<'_>, replicas: u64) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let words = ["scale", OPERATOR, "-n", OPERATOR_NAMESPACE, &replicas];
    deployment.rig.kubectl(words).map(drop)
}

fn checksum(deployment: &Deployment<'_>) -> Result<String> {
    let mut kubectl = deployment.rig.kubectl_command();
    let definition: Value =
        serde_json::from_str(&run(kubectl.args(["get", "crd", DEFINITION, "-o", "json"]))?)?;
    let checksum = definition["metadata"]["annotations"][CHECKSUM].as_str();
    checksum
        .map(str::to_owned)
        .context("the definition has no checksum")
}

fn annotate(deployment: &Deployment<'_>, checksum: &str) -> Result<()> {
    let annotation = format!("{CHECKSUM}={checksum}");
    let words = ["annotate", "crd", DEFINITION, "--overwrite", &annotation];
    deployment.rig.kubectl(words).map(drop)
}
