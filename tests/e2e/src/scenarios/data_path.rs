//! The data path: packets pass through the kernel where that is possible, and the status names the path.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rig::{
    cluster::image::PAUSE, command::run_with_input, deployment::Deployment, names::NAMESPACE,
    net::Family, wait::Wait,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, carried, relayed, reset, underlay::relayed_without};

/// Bytes through the tunnel.
const BULK: u64 = 100_000_000;
/// Name of the policy that removes capabilities.
const STRIPPING: &str = "no-capabilities";
const REMEDY: &str = "give the relay CAP_BPF and CAP_NET_ADMIN";
/// Wait until a running relay reports its data path.
const SOON: Wait = Wait::new(5, 10);
const KERNEL: &str = "peerrelay_forwarded_bytes_total{data_path=\"kernel\"";
const SOCKET: &str = "peerrelay_forwarded_bytes_total{data_path=\"socket\"";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "100 MB between stock clients pass through the kernel path, and the status names it",
            run: kernel,
        },
        Scenario {
            name: "with dataPath Socket relays hold no capability, and forward",
            run: socket,
        },
        Scenario {
            name: "relays whose capabilities a policy of the cluster removes forward by sockets, report it \
                   within 10 s, and use the kernel again without the policy",
            run: stripped,
        },
    ]
}

fn kernel(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    paths_are(deployment, "Kernel")?;
    relayed_without(deployment, Family::V6)?;
    let said = transfer(deployment, KERNEL)?;
    reset(deployment)?;
    Ok(said)
}

fn socket(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.apply(EDGE, &json!({"dataPath": "Socket"}))?;
    paths_are(deployment, "Socket")?;
    deployment.wait_ready(EDGE)?;
    let set = deployment.object("daemonset", &format!("{EDGE}-office"))?;
    let security = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    ensure!(
        security["capabilities"] == json!({"drop": ["ALL"]}),
        "the relay's container has {security}"
    );
    // For some seconds the kernel still forwards for sessions of the replaced relays, and does not count
    // those bytes. So transfers are repeated until all bytes of one are counted.
    let mut said = String::new();
    deployment.eventually("sockets forward", || {
        said = transfer(deployment, SOCKET)?;
        Ok(())
    })?;
    reset(deployment)?;
    paths_are(deployment, "Kernel")?;
    Ok(said)
}

fn stripped(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    paths_are(deployment, "Kernel")?;
    deployment.rig.apply(&stripping().to_string())?;
    let said = without_capabilities(deployment);
    let kinds = "mutatingadmissionpolicies,mutatingadmissionpolicybindings";
    deployment.rig.kubectl(["delete", kinds, STRIPPING])?;
    let said = said?;
    wait_until_pods_get(deployment, &json!(["BPF"]))?;
    replace_pods(deployment)?;
    deployment.wait_ready(EDGE)?;
    paths_are(deployment, "Kernel")?;
    relayed_without(deployment, Family::V6)?;
    // Restored sessions reach the kernel a moment after the relay is ready.
    let mut through = String::new();
    deployment.eventually("the kernel forwards", || {
        through = transfer(deployment, KERNEL)?;
        Ok(())
    })?;
    reset(deployment)?;
    Ok(format!("{said}; then {through}"))
}

fn without_capabilities(deployment: &Deployment<'_>) -> Result<String> {
    wait_until_pods_get(deployment, &Value::Null)?;
    let start = replace_pods(deployment)?;
    let called = start.elapsed();
    let waited = SOON.until("relays report missing capabilities", || {
        all_report(deployment, not_permitted)
    })?;
    let took = (called + waited).as_secs_f64();
    deployment.wait_ready(EDGE)?;
    let mut through = String::new();
    deployment.eventually("sockets forward", || {
        through = transfer(deployment, SOCKET)?;
        Ok(())
    })?;
    // With the kernel path required, the PeerRelay itself reports that it is missing.
    deployment.apply(EDGE, &json!({"dataPath": "Kernel"}))?;
    deployment.soon("the PeerRelay reports it", || {
        for (kind, wanted) in [("Ready", "False"), ("Stalled", "True")] {
            let is = deployment.condition(EDGE, kind)?;
            let wanted = format!("{wanted}/KernelPathUnavailable");
            ensure!(is == wanted, "{kind} is '{is}'");
        }
        Ok(())
    })?;
    let relay = deployment.object("peerrelay", EDGE)?;
    let conditions = relay["status"]["conditions"].to_string();
    ensure!(
        conditions.contains(REMEDY) && conditions.contains("or set dataPath to Auto"),
        "no remedy: {conditions}"
    );
    relayed(deployment)?;
    Ok(format!("reported after {took:.1} s, {through}"))
}

/// Checks that a relay forwards by sockets because capabilities are missing, and names them.
fn not_permitted(status: &Value) -> Result<()> {
    let message = status["dataPathMessage"].as_str().unwrap_or_default();
    ensure!(
        status["dataPath"] == "Socket"
            && status["dataPathReason"] == "NotPermitted"
            && message.contains(REMEDY),
        "a relay says {}, {}: {message}",
        status["dataPath"],
        status["dataPathReason"],
    );
    Ok(())
}

/// Removes added capabilities from pods of the relays' namespace, as policies of clusters do.
fn stripping() -> Value {
    let object = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": STRIPPING}, "spec": spec,
        })
    };
    let added = "/spec/containers/0/securityContext/capabilities/add";
    let policy = json!({
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
            "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["pods"],
            }],
        },
        "matchConditions": [{
            "name": "adds-capabilities",
            "expression": "has(object.spec.containers[0].securityContext.capabilities.add)",
        }],
        "mutations": [{
            "patchType": "JSONPatch",
            "jsonPatch": {
                "expression": format!("[JSONPatch{{op: \"remove\", path: \"{added}\"}}]"),
            },
        }],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        object("MutatingAdmissionPolicy", policy),
        object("MutatingAdmissionPolicyBinding", json!({"policyName": STRIPPING})),
    ]})
}

/// Waits until a new pod that requests a capability would get these. The API server applies a policy a
/// moment after it was created.
fn wait_until_pods_get(deployment: &Deployment<'_>, wanted: &Value) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "asks", "namespace": NAMESPACE},
        "spec": {"containers": [{
            "name": "asks", "image": PAUSE,
            "securityContext": {"capabilities": {"add": ["BPF"]}},
        }]},
    });
    deployment.soon("the policy is in force, or gone", || {
        let mut create = deployment.rig.kubectl_command();
        create.args(["create", "--dry-run=server", "-o", "json", "-f", "-"]);
        let made = run_with_input(&mut create, pod.to_string().as_bytes())?;
        let made: Value = serde_json::from_str(&made)?;
        let capabilities = &made["spec"]["containers"][0]["securityContext"]["capabilities"];
        let added = &capabilities["add"];
        ensure!(added == wanted, "it gets {added}");
        Ok(())
    })
}

/// Deletes the relays' pods, and returns the time at which all new ones run.
pub(super) fn replace_pods(deployment: &Deployment<'_>) -> Result<Instant> {
    let before = deployment.list("pods", EDGE)?;
    let label = format!("peerrelay.dev/peer-relay={EDGE}");
    deployment
        .rig
        .kubectl(["delete", "pods", "-n", NAMESPACE, "-l", &label])?;
    deployment.eventually("pods are replaced and run", || {
        let pods = deployment.list("pods", EDGE)?;
        let runs = |pod: &&Value| pod["status"]["phase"] == "Running";
        let run = pods.iter().filter(runs).count();
        ensure!(
            pods.len() == before.len() && run == pods.len(),
            "of {} pods {run} run",
            pods.len()
        );
        Ok(())
    })?;
    Ok(Instant::now())
}

/// Waits until every relay reports this data path.
pub(super) fn paths_are(deployment: &Deployment<'_>, wanted: &str) -> Result<()> {
    deployment.eventually("relays report their data path", || {
        all_report(deployment, |status| {
            ensure!(
                status["dataPath"] == wanted,
                "a relay says {}, {}: {}",
                status["dataPath"],
                status["dataPathReason"],
                status["dataPathMessage"]
            );
            Ok(())
        })
    })
}

/// Checks the report of each running relay; a report may outlive its pod for a while.
pub(super) fn all_report(
    deployment: &Deployment<'_>,
    check: impl Fn(&Value) -> Result<()>,
) -> Result<()> {
    let pods = deployment.list("pods", EDGE)?;
    ensure!(!pods.is_empty(), "no relay runs");
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let relay = deployment.object("relaynode", name)?;
        check(&relay["status"])?;
    }
    Ok(())
}

/// Sends bytes through the relays, which the metric with this prefix must count.
fn transfer(deployment: &Deployment<'_>, metric: &str) -> Result<String> {
    relayed(deployment)?;
    let before = deployment.metric(metric)?;
    let sent = carried::transfer(deployment, BULK)?;
    let counted = deployment.metric(metric)? - before;
    ensure!(counted > BULK as f64, "{metric}: {counted} bytes only");
    Ok(format!("{sent}, {counted} bytes counted"))
}
