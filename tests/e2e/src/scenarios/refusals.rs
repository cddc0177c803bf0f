//! Objects that the API server refuses, and objects that the operator cannot read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, message},
    names::NAMESPACE,
    spec::region,
    wait::Wait,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, operator::kill_operators, reset, status::waits};

/// Wait until a refusal is in the status.
const SOON: Wait = Wait::new(3, 5);
/// A PeerRelay whose relays can run beside those of [`EDGE`].
const OTHER: &str = "other";
/// A node port that a foreign Service uses.
const TAKEN: u16 = 31_999;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a refusal of the API server is reported within 5 s in its words, blocks nothing else, \
                   and ends with its cause",
            run: refused,
        },
        Scenario {
            name: "a PeerRelay or RelayNode that the operator cannot read blocks nothing else",
            run: unreadable,
        },
    ]
}

fn refused(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let found = [
        bad_resources(deployment).context("bad resources")?,
        bad_labels(deployment).context("bad labels")?,
        bad_overrides(deployment).context("overrides of what is not there")?,
        unknown_kind(deployment).context("unknown kind")?,
        port_taken(deployment).context("node port taken")?,
        policy_and_quota(deployment).context("policy and quota")?,
    ];
    namespace_goes(deployment).context("namespace that is deleted")?;
    deployment.wait_ready(EDGE)?;
    Ok(found.join(", "))
}

/// Running relays are kept, and objects that do not depend on the refused one are changed.
fn bad_resources(deployment: &Deployment<'_>) -> Result<String> {
    let small = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "64Mi"}});
    let spec = json!({
        "template": {"resources": small},
        "regions": [{"name": "office", "clients": ["tag:office", "tag:annex"]}],
    });
    let start = Instant::now();
    deployment.apply(EDGE, &spec)?;
    let took = rejected(
        deployment,
        EDGE,
        &["DaemonSet edge-office", "memory limit"],
        start,
    )?;
    let available = deployment.condition(EDGE, "RelaysAvailable")?;
    ensure!(
        available == "True/RelaysReady",
        "RelaysAvailable is '{available}'"
    );
    deployment.soon("the policy has the new client", || {
        let policy = deployment.object("configmap", &format!("{EDGE}-grants"))?;
        let text = policy["data"].to_string();
        ensure!(text.contains("tag:annex"), "it is {text}");
        Ok(())
    })?;
    ensure!(!waits(deployment), "kubectl wait takes it for ready");
    let events = warnings(deployment, EDGE, "ApplyRejected")?;
    ensure!(events == 1, "{events} events");
    // Values that the API server normalises are no change.
    let fine =
        json!({"requests": {"cpu": "0.05", "memory": "32.0Mi"}, "limits": {"memory": "0.25Gi"}});
    let overrides =
        json!({"containers": [{"name": "relay", "env": [{"name": "EMPTY", "value": ""}]}]});
    deployment.apply(
        EDGE,
        &json!({"template": {"resources": fine, "podOverrides": overrides}}),
    )?;
    deployment.wait_ready(EDGE)?;
    let before = applied(deployment)?;
    for round in 0..3 {
        let annotation = format!("rig/annotated={round}");
        deployment.annotate(EDGE, &annotation)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let after = applied(deployment)?;
    ensure!(
        before == after,
        "applied {before} times, then {after} times"
    );
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!("resources after {took:.1} s"))
}

/// Values of labels that admission does not check. One in a node selector stops no relay, although no
/// node matches.
fn bad_labels(deployment: &Deployment<'_>) -> Result<String> {
    let value = "no value of a label!";
    let cases = [
        (
            json!({"template": {"labels": {"team": value}}}),
            "ApplyRejected",
            "DaemonSet edge-office",
        ),
        (
            region("placement", json!({"nodeSelector": {"team": value}})),
            "InvalidSpec",
            "placement.nodeSelector of region office",
        ),
    ];
    let mut slowest = 0.0_f64;
    for (spec, reason, subject) in &cases {
        let start = Instant::now();
        deployment.apply(EDGE, spec)?;
        let took = refused_for(deployment, EDGE, reason, &[subject, value], start)
            .with_context(|| spec.to_string())?;
        slowest = slowest.max(took);
        let available = deployment.condition(EDGE, "RelaysAvailable")?;
        ensure!(
            available == "True/RelaysReady",
            "RelaysAvailable is '{available}' with {spec}"
        );
    }
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!("labels after {slowest:.1} s"))
}

/// Only relays on the network of their nodes have the container that prepares a directory there.
fn bad_overrides(deployment: &Deployment<'_>) -> Result<String> {
    let exposure = json!({"type": "NodePort", "hostNetwork": false});
    let mut spec = region("exposure", exposure);
    spec["template"] = json!({"podOverrides": {"initContainers": [
        {"name": "prepare-state", "resources": {"limits": {"cpu": "1"}}},
    ]}});
    let start = Instant::now();
    deployment.apply(EDGE, &spec)?;
    let words = [
        "initContainers[prepare-state]",
        "region office",
        "remove it",
    ];
    let took = refused_for(deployment, EDGE, "InvalidSpec", &words, start)?;
    let available = deployment.condition(EDGE, "RelaysAvailable")?;
    ensure!(
        available == "True/RelaysReady",
        "RelaysAvailable is '{available}'"
    );
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!("overrides after {took:.1} s"))
}

fn unknown_kind(deployment: &Deployment<'_>) -> Result<String> {
    let start = Instant::now();
    deployment.apply(EDGE, &json!({"monitoring": {"serviceMonitor": "Enabled"}}))?;
    let took = rejected(deployment, EDGE, &["ServiceMonitor edge-metrics"], start)?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!("kind after {took:.1} s"))
}

/// A later region is created although the first one's Service is refused.
fn port_taken(deployment: &Deployment<'_>) -> Result<String> {
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "foreign", "namespace": NAMESPACE},
        "spec": {"type": "NodePort", "selector": {"app": "foreign"},
                 "ports": [{"port": 1, "protocol": "UDP", "nodePort": TAKEN}]},
    });
    deployment.rig.apply(&foreign.to_string())?;
    let nowhere = json!({"nodeSelector": {"peerrelay.dev/no-such-node": "true"}});
    let spec = json!({"port": 40_300, "monitoring": {"port": 9_741}, "regions": [
        {"name": "first", "clients": ["tag:office"], "placement": nowhere,
         "exposure": {"type": "NodePort", "nodePort": TAKEN}},
        {"name": "second", "clients": ["tag:office"], "placement": nowhere},
    ]});
    let start = Instant::now();
    deployment.apply(OTHER, &spec)?;
    let words = ["Service other-first", "provided port is already allocated"];
    let took = rejected(deployment, OTHER, &words, start)?;
    deployment.object("daemonset", "other-second")?;
    deployment
        .rig
        .kubectl(["delete", "service", "foreign", "-n", NAMESPACE])?;
    not_rejected(deployment, OTHER)?;
    deployment.object("service", "other-first")?;
    deployment.delete(OTHER)?;
    Ok(format!("node port after {took:.1} s"))
}

fn policy_and_quota(deployment: &Deployment<'_>) -> Result<String> {
    for object in denials() {
        deployment.rig.apply(&object.to_string())?;
    }
    deployment.eventually("policy and quota are in force", || in_force(deployment))?;
    let spec = json!({"port": 40_200, "monitoring": {"port": 9_641}});
    let start = Instant::now();
    deployment.apply(OTHER, &spec)?;
    let words = [
        "DaemonSet other-office",
        "the rig forbids the network of nodes",
        "Service other-metrics",
        "exceeded quota: rig-no-services",
    ];
    let took = rejected(deployment, OTHER, &words, start)?;
    for kind in ["serviceaccount", "role", "rolebinding", "configmap"] {
        deployment.object(kind, "other-office")?;
    }
    deployment.rig.kubectl([
        "delete",
        "resourcequota",
        "rig-no-services",
        "-n",
        NAMESPACE,
    ])?;
    for kind in [
        "validatingadmissionpolicybinding",
        "validatingadmissionpolicy",
    ] {
        deployment
            .rig
            .kubectl(["delete", kind, "rig-no-host-network"])?;
    }
    deployment.wait_ready(OTHER)?;
    deployment.object("service", "other-metrics")?;
    let events = warnings(deployment, OTHER, "ApplyRejected")?;
    ensure!(events == 1, "{events} events");
    deployment.delete(OTHER)?;
    Ok(format!("policy and quota after {took:.1} s"))
}

/// An admission policy against the network of nodes, its binding, and a quota without Services.
fn denials() -> [Value; 3] {
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "rig-no-host-network"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["daemonsets"],
                "operations": ["CREATE"],
            }]},
            "validations": [{
                "expression": "!has(object.spec.template.spec.hostNetwork) || !object.spec.template.spec.hostNetwork",
                "message": "the rig forbids the network of nodes",
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "rig-no-host-network"},
        "spec": {"policyName": "rig-no-host-network", "validationActions": ["Deny"]},
    });
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "rig-no-services", "namespace": NAMESPACE},
        "spec": {"hard": {"count/services": "0"}},
    });
    [policy, binding, quota]
}

/// Fails unless the policy and the quota refuse objects of others.
fn in_force(deployment: &Deployment<'_>) -> Result<()> {
    let template = json!({
        "metadata": {"labels": {"app": "rig"}},
        "spec": {"hostNetwork": true, "containers": [{"name": "a", "image": "example.test/a:1"}]},
    });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "rig-denied", "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": {"app": "rig"}}, "template": template},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "rig-denied", "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "selector": {"app": "rig"}},
    });
    for object in [set, service] {
        let mut kubectl = deployment.rig.kubectl_command();
        kubectl.args(["create", "--dry-run=server", "-f", "-"]);
        let made = rig::command::run_with_input(&mut kubectl, object.to_string().as_bytes());
        ensure!(made.is_err(), "{} is not refused", object["kind"]);
    }
    Ok(())
}

/// In a namespace that is being deleted nothing is created again, and its deletion ends.
fn namespace_goes(deployment: &Deployment<'_>) -> Result<()> {
    let leaving = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}});
    deployment.rig.apply(&leaving.to_string())?;
    let mut relay = deployment.peer_relay(
        OTHER,
        &json!({"port": 40_200, "monitoring": {"port": 9_641}}),
    )?;
    relay["metadata"]["namespace"] = json!("leaving");
    deployment.rig.apply(&relay.to_string())?;
    deployment.soon("its objects are made", || {
        let words = ["get", "daemonset", "other-office", "-n", "leaving"];
        deployment.rig.kubectl(words).map(drop)
    })?;
    deployment
        .rig
        .kubectl(["delete", "namespace", "leaving", "--timeout=60s"])
        .map(drop)
}

fn unreadable(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let deep = (0..150).fold(json!({}), |inner, _| json!({"a": inner}));
    let spec =
        json!({"port": 40_200, "monitoring": {"port": 9_641}, "template": {"podOverrides": deep}});
    let start = Instant::now();
    deployment.apply(OTHER, &spec)?;
    create_strange_report(deployment)?;
    let invalid = || {
        let stalled = field(
            deployment,
            OTHER,
            ".status.conditions[?(@.type==\"Stalled\")].reason",
        )?;
        ensure!(stalled == "InvalidSpec", "Stalled is '{stalled}'");
        Ok(())
    };
    let called = start.elapsed();
    let took = (called + SOON.until("the PeerRelay is InvalidSpec", invalid)?).as_secs_f64();
    mended(deployment).context("while they were streamed")?;
    // A new operator lists them.
    kill_operators(deployment)?;
    mended(deployment).context("after they were listed")?;
    ensure!(invalid().is_ok(), "it is not InvalidSpec any more");
    deployment.eventually("an event names the RelayNode", || {
        let mut events = events(deployment, "strange")?.into_iter();
        let is_named = events.any(|event| event["reason"] == "InvalidReport");
        ensure!(is_named, "no event");
        Ok(())
    })?;
    let events = warnings(deployment, OTHER, "InvalidSpec")?;
    ensure!(events == 1, "{events} events");
    deployment.wait_ready(EDGE)?;
    deployment
        .rig
        .kubectl(["delete", "relaynode", "strange", "-n", NAMESPACE])?;
    deployment.apply(
        OTHER,
        &json!({"port": 40_200, "monitoring": {"port": 9_641}}),
    )?;
    deployment.wait_ready(OTHER)?;
    deployment.delete(OTHER)?;
    Ok(format!("InvalidSpec after {took:.1} s"))
}

/// Creates a RelayNode whose time has more digits than the operator reads.
fn create_strange_report(deployment: &Deployment<'_>) -> Result<()> {
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": "strange", "namespace": NAMESPACE},
        "spec": {"peerRelay": EDGE, "region": "office", "nodeName": "strange"},
    });
    deployment.rig.apply(&report.to_string())?;
    // The format of the schema admits any number of digits; the operator's has nine.
    let status = r#"{"status":{"ready":true,"version":"9","dataPath":"Socket","lastUpdateTime":"2026-01-01T00:00:00.1234567890123Z"}}"#;
    let words = [
        "patch",
        "relaynode",
        "strange",
        "-n",
        NAMESPACE,
        "--subresource=status",
    ];
    let words = words.into_iter().chain(["--type=merge", "-p", status]);
    deployment.rig.kubectl(words).map(drop)
}

/// Deletes a ConfigMap of [`EDGE`], and waits until the operator has created it again.
fn mended(deployment: &Deployment<'_>) -> Result<()> {
    let name = format!("{EDGE}-office");
    deployment
        .rig
        .kubectl(["delete", "configmap", &name, "-n", NAMESPACE])?;
    deployment.eventually("it is repaired", || {
        deployment.object("configmap", &name).map(drop)
    })
}

/// Waits until the status has a refusal of the API server; returns the seconds since `start`.
fn rejected(
    deployment: &Deployment<'_>,
    name: &str,
    words: &[&str],
    start: Instant,
) -> Result<f64> {
    refused_for(deployment, name, "ApplyRejected", words, start)
}

/// Waits until the status has the refusal with this reason and these words; returns the seconds
/// since `start`.
fn refused_for(
    deployment: &Deployment<'_>,
    name: &str,
    reason: &str,
    words: &[&str],
    start: Instant,
) -> Result<f64> {
    let called = start.elapsed();
    let waited = SOON.until("the status has the refusal", || {
        for (kind, wanted) in [("Ready", "False"), ("Stalled", "True")] {
            let is = deployment.condition(name, kind)?;
            ensure!(is == format!("{wanted}/{reason}"), "{kind} is '{is}'");
        }
        Ok(())
    })?;
    let took = (called + waited).as_secs_f64();
    let message = message(&deployment.object("peerrelay", name)?, "Ready");
    for word in words {
        ensure!(message.contains(word), "'{word}' is not in '{message}'");
    }
    Ok(took)
}

fn not_rejected(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    deployment.eventually("it is not refused any more", || {
        let stalled = deployment.condition(name, "Stalled")?;
        let ready = deployment.condition(name, "Ready")?;
        ensure!(
            stalled.is_empty() && !ready.is_empty(),
            "Stalled is '{stalled}', Ready '{ready}'"
        );
        Ok(())
    })
}

fn events(deployment: &Deployment<'_>, about: &str) -> Result<Vec<Value>> {
    let text = deployment
        .rig
        .kubectl(["get", "events", "-n", NAMESPACE, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    let mut all = all.into_iter();
    Ok(all
        .by_ref()
        .filter(|e| e["involvedObject"]["name"] == about)
        .collect())
}

/// The number of Warning events with this reason for the PeerRelay that exists.
fn warnings(deployment: &Deployment<'_>, name: &str, reason: &str) -> Result<u64> {
    let uid = field(deployment, name, ".metadata.uid")?;
    let all = events(deployment, name)?;
    let found = all.iter().filter(|event| {
        let about = &event["involvedObject"];
        event["type"] == "Warning" && event["reason"] == reason && about["uid"] == *uid
    });
    Ok(found
        .map(|event| event["series"]["count"].as_u64().unwrap_or(1))
        .sum())
}

/// Requests by which the operator has applied the DaemonSet of [`EDGE`] so far.
fn applied(deployment: &Deployment<'_>) -> Result<usize> {
    let log =
        std::fs::read_to_string(deployment.rig.audit_log()).context("there is no audit log")?;
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let about = |event: &Value| {
        let object = &event["objectRef"];
        event["verb"] == "patch"
            && object["resource"] == "daemonsets"
            && object["name"] == "edge-office"
            && object["subresource"].is_null()
    };
    Ok(events.filter(about).count())
}

/// A field of a PeerRelay that may be too deep to be read here.
fn field(deployment: &Deployment<'_>, name: &str, path: &str) -> Result<String> {
    let output = format!("jsonpath={{{path}}}");
    deployment
        .rig
        .kubectl(["get", "peerrelay", name, "-n", NAMESPACE, "-o", &output])
}
