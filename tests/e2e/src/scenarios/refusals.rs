//! Objects that the API server refuses, and objects that the operator cannot read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::process;
use rig::spec::region;
use rig::world::{NAMESPACE, World, message};
use serde_json::{Value, json};

use super::operator::kill_operators;
use super::status::waits;
use super::{EDGE, Scenario, reset};

/// In which a refusal is in the status.
const SOON: Duration = Duration::from_secs(5);
/// A PeerRelay whose relays can run beside those of [`EDGE`].
const OTHER: &str = "other";
/// A node port that someone else's Service has.
const TAKEN: u16 = 31_999;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "what the API server refuses is told within 5 s in its words, holds up nothing \
                   else, and ends with its cause",
            run: refused,
        },
        Scenario {
            name: "what the operator cannot read, a PeerRelay or a RelayNode, holds up nothing else",
            run: unreadable,
        },
    ]
}

fn refused(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let found = [
        bad_resources(world).context("bad resources")?,
        bad_labels(world).context("bad labels")?,
        bad_overrides(world).context("overrides of what is not there")?,
        unknown_kind(world).context("unknown kind")?,
        port_taken(world).context("node port taken")?,
        policy_and_quota(world).context("policy and quota")?,
    ];
    namespace_goes(world).context("namespace that is deleted")?;
    world.wait_ready(EDGE)?;
    Ok(found.join(", "))
}

/// Relays that run go on, and what does not depend on the refused object is changed.
fn bad_resources(world: &World<'_>) -> Result<String> {
    let small = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "64Mi"}});
    let spec = json!({
        "template": {"resources": small},
        "regions": [{"name": "office", "clients": ["tag:office", "tag:annex"]}],
    });
    let start = Instant::now();
    world.apply(EDGE, &spec)?;
    let took = rejected(
        world,
        EDGE,
        &["DaemonSet edge-office", "memory limit"],
        start,
    )?;
    let available = world.condition(EDGE, "RelaysAvailable")?;
    ensure!(
        available == "True/RelaysReady",
        "RelaysAvailable is '{available}'"
    );
    world.eventually("the policy has the new client", || {
        let policy = world.object("configmap", &format!("{EDGE}-grants"))?;
        let text = policy["data"].to_string();
        ensure!(text.contains("tag:annex"), "it is {text}");
        Ok(())
    })?;
    ensure!(!waits(world), "kubectl wait takes it for ready");
    let told = warnings(world, EDGE, "ApplyRejected")?;
    ensure!(told == 1, "{told} events");
    // What the API server writes in another way is no change.
    let fine =
        json!({"requests": {"cpu": "0.05", "memory": "32.0Mi"}, "limits": {"memory": "0.25Gi"}});
    let overrides =
        json!({"containers": [{"name": "relay", "env": [{"name": "EMPTY", "value": ""}]}]});
    world.apply(
        EDGE,
        &json!({"template": {"resources": fine, "podOverrides": overrides}}),
    )?;
    world.wait_ready(EDGE)?;
    let before = applied(world)?;
    for round in 0..3 {
        let note = format!("rig/looked={round}");
        world.annotate(EDGE, &note)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let after = applied(world)?;
    ensure!(
        before == after,
        "applied {before} times, then {after} times"
    );
    world.apply(EDGE, &json!({}))?;
    world.wait_ready(EDGE)?;
    Ok(format!("resources after {took:.1} s"))
}

/// Values of labels that admission does not look at.
fn bad_labels(world: &World<'_>) -> Result<String> {
    let value = "no value of a label!";
    let specs = [
        json!({"template": {"labels": {"team": value}}}),
        region("placement", json!({"nodeSelector": {"team": value}})),
    ];
    let mut slowest = 0.0_f64;
    for spec in &specs {
        let start = Instant::now();
        world.apply(EDGE, spec)?;
        let took = rejected(world, EDGE, &["DaemonSet edge-office", value], start)
            .with_context(|| spec.to_string())?;
        slowest = slowest.max(took);
    }
    world.apply(EDGE, &json!({}))?;
    world.wait_ready(EDGE)?;
    Ok(format!("labels after {slowest:.1} s"))
}

/// Only relays on the network of their nodes have the container that prepares a directory there.
fn bad_overrides(world: &World<'_>) -> Result<String> {
    let exposure = json!({"type": "NodePort", "hostNetwork": false});
    let mut spec = region("exposure", exposure);
    spec["template"] = json!({"podOverrides": {"initContainers": [
        {"name": "prepare-state", "resources": {"limits": {"cpu": "1"}}},
    ]}});
    let start = Instant::now();
    world.apply(EDGE, &spec)?;
    let words = [
        "initContainers[prepare-state]",
        "region office",
        "remove it",
    ];
    let took = refused_for(world, EDGE, "InvalidSpec", &words, start)?;
    let available = world.condition(EDGE, "RelaysAvailable")?;
    ensure!(
        available == "True/RelaysReady",
        "RelaysAvailable is '{available}'"
    );
    world.apply(EDGE, &json!({}))?;
    world.wait_ready(EDGE)?;
    Ok(format!("overrides after {took:.1} s"))
}

fn unknown_kind(world: &World<'_>) -> Result<String> {
    let start = Instant::now();
    world.apply(EDGE, &json!({"monitoring": {"serviceMonitor": "Enabled"}}))?;
    let took = rejected(world, EDGE, &["ServiceMonitor edge-metrics"], start)?;
    world.apply(EDGE, &json!({}))?;
    world.wait_ready(EDGE)?;
    Ok(format!("kind after {took:.1} s"))
}

/// A later region is made although the first one's Service is refused.
fn port_taken(world: &World<'_>) -> Result<String> {
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "foreign", "namespace": NAMESPACE},
        "spec": {"type": "NodePort", "selector": {"app": "foreign"},
                 "ports": [{"port": 1, "protocol": "UDP", "nodePort": TAKEN}]},
    });
    world.rig.apply(&foreign.to_string())?;
    let nowhere = json!({"nodeSelector": {"peerrelay.dev/no-such-node": "true"}});
    let spec = json!({"port": 40_300, "monitoring": {"port": 9_741}, "regions": [
        {"name": "first", "clients": ["tag:office"], "placement": nowhere,
         "exposure": {"type": "NodePort", "nodePort": TAKEN}},
        {"name": "second", "clients": ["tag:office"], "placement": nowhere},
    ]});
    let start = Instant::now();
    world.apply(OTHER, &spec)?;
    let words = ["Service other-first", "provided port is already allocated"];
    let took = rejected(world, OTHER, &words, start)?;
    world.object("daemonset", "other-second")?;
    world
        .rig
        .kubectl(["delete", "service", "foreign", "-n", NAMESPACE])?;
    not_rejected(world, OTHER)?;
    world.object("service", "other-first")?;
    world.delete(OTHER)?;
    Ok(format!("node port after {took:.1} s"))
}

fn policy_and_quota(world: &World<'_>) -> Result<String> {
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
    for object in [&policy, &binding, &quota] {
        world.rig.apply(&object.to_string())?;
    }
    world.eventually("policy and quota are in force", || in_force(world))?;
    let spec = json!({"port": 40_200, "monitoring": {"port": 9_641}});
    let start = Instant::now();
    world.apply(OTHER, &spec)?;
    let words = [
        "DaemonSet other-office",
        "the rig forbids the network of nodes",
        "Service other-metrics",
        "exceeded quota: rig-no-services",
    ];
    let took = rejected(world, OTHER, &words, start)?;
    for kind in ["serviceaccount", "role", "rolebinding", "configmap"] {
        world.object(kind, "other-office")?;
    }
    world.rig.kubectl([
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
        world.rig.kubectl(["delete", kind, "rig-no-host-network"])?;
    }
    world.wait_ready(OTHER)?;
    world.object("service", "other-metrics")?;
    let told = warnings(world, OTHER, "ApplyRejected")?;
    ensure!(told == 1, "{told} events");
    world.delete(OTHER)?;
    Ok(format!("policy and quota after {took:.1} s"))
}

/// Whether others are refused by the policy and the quota.
fn in_force(world: &World<'_>) -> Result<()> {
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
        let mut kubectl = world.rig.kubectl_command();
        kubectl.args(["create", "--dry-run=server", "-f", "-"]);
        let made = rig::command::run_with_input(&mut kubectl, object.to_string().as_bytes());
        ensure!(made.is_err(), "{} is not refused", object["kind"]);
    }
    Ok(())
}

/// Nothing is made anew in a namespace that goes, and it can go.
fn namespace_goes(world: &World<'_>) -> Result<()> {
    let leaving = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}});
    world.rig.apply(&leaving.to_string())?;
    let mut relay = world.peer_relay(
        OTHER,
        &json!({"port": 40_200, "monitoring": {"port": 9_641}}),
    )?;
    relay["metadata"]["namespace"] = json!("leaving");
    world.rig.apply(&relay.to_string())?;
    world.eventually("its objects are made", || {
        let words = ["get", "daemonset", "other-office", "-n", "leaving"];
        world.rig.kubectl(words).map(drop)
    })?;
    world
        .rig
        .kubectl(["delete", "namespace", "leaving", "--timeout=60s"])
        .map(drop)
}

fn unreadable(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let deep = (0..150).fold(json!({}), |inner, _| json!({"a": inner}));
    let spec =
        json!({"port": 40_200, "monitoring": {"port": 9_641}, "template": {"podOverrides": deep}});
    let start = Instant::now();
    world.apply(OTHER, &spec)?;
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": "strange", "namespace": NAMESPACE},
        "spec": {"peerRelay": EDGE, "region": "office", "nodeName": "strange"},
    });
    world.rig.apply(&report.to_string())?;
    // The format of the schema lets through as many digits as one likes; ours has nine.
    let status = r#"{"status":{"ready":true,"version":"9","dataPath":"Socket","lastUpdateTime":"2026-01-01T00:00:00.1234567890123Z"}}"#;
    let words = [
        "patch",
        "relaynode",
        "strange",
        "-n",
        NAMESPACE,
        "--subresource=status",
    ];
    world
        .rig
        .kubectl(words.into_iter().chain(["--type=merge", "-p", status]))?;
    let invalid = || {
        let stalled = field(
            world,
            OTHER,
            ".status.conditions[?(@.type==\"Stalled\")].reason",
        )?;
        ensure!(stalled == "InvalidSpec", "Stalled is '{stalled}'");
        Ok(())
    };
    process::wait_until(SOON, || true, invalid)?;
    let took = start.elapsed().as_secs_f64();
    mended(world).context("while they were streamed")?;
    // A new operator lists them.
    kill_operators(world)?;
    mended(world).context("after they were listed")?;
    ensure!(invalid().is_ok(), "it is not InvalidSpec any more");
    world.eventually("an event tells of the RelayNode", || {
        let told = events(world, "strange")?;
        let told = told.iter().any(|event| event["reason"] == "InvalidReport");
        ensure!(told, "no event");
        Ok(())
    })?;
    let told = warnings(world, OTHER, "InvalidSpec")?;
    ensure!(told == 1, "{told} events");
    world.wait_ready(EDGE)?;
    world
        .rig
        .kubectl(["delete", "relaynode", "strange", "-n", NAMESPACE])?;
    world.apply(
        OTHER,
        &json!({"port": 40_200, "monitoring": {"port": 9_641}}),
    )?;
    world.wait_ready(OTHER)?;
    world.delete(OTHER)?;
    Ok(format!("InvalidSpec after {took:.1} s"))
}

/// Waits until the operator has mended something of [`EDGE`].
fn mended(world: &World<'_>) -> Result<()> {
    let name = format!("{EDGE}-office");
    world
        .rig
        .kubectl(["delete", "configmap", &name, "-n", NAMESPACE])?;
    world.eventually("it is repaired", || {
        world.object("configmap", &name).map(drop)
    })
}

/// Waits until a refusal of the API server is told, and says after how many seconds it was.
fn rejected(world: &World<'_>, name: &str, words: &[&str], start: Instant) -> Result<f64> {
    refused_for(world, name, "ApplyRejected", words, start)
}

/// The same of a refusal with this reason.
fn refused_for(
    world: &World<'_>,
    name: &str,
    reason: &str,
    words: &[&str],
    start: Instant,
) -> Result<f64> {
    process::wait_until(
        SOON,
        || true,
        || {
            for (kind, wanted) in [("Ready", "False"), ("Stalled", "True")] {
                let is = world.condition(name, kind)?;
                ensure!(is == format!("{wanted}/{reason}"), "{kind} is '{is}'");
            }
            Ok(())
        },
    )?;
    let took = start.elapsed().as_secs_f64();
    let message = message(&world.object("peerrelay", name)?, "Ready");
    for word in words {
        ensure!(message.contains(word), "'{word}' is not in '{message}'");
    }
    Ok(took)
}

fn not_rejected(world: &World<'_>, name: &str) -> Result<()> {
    world.eventually("it is not refused any more", || {
        let stalled = world.condition(name, "Stalled")?;
        let ready = world.condition(name, "Ready")?;
        ensure!(
            stalled.is_empty() && !ready.is_empty(),
            "Stalled is '{stalled}', Ready '{ready}'"
        );
        Ok(())
    })
}

fn events(world: &World<'_>, about: &str) -> Result<Vec<Value>> {
    let text = world
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

/// How often a Warning with this reason was told of the PeerRelay that exists.
fn warnings(world: &World<'_>, name: &str, reason: &str) -> Result<u64> {
    let uid = field(world, name, ".metadata.uid")?;
    let all = events(world, name)?;
    let told = all.iter().filter(|event| {
        let about = &event["involvedObject"];
        event["type"] == "Warning" && event["reason"] == reason && about["uid"] == *uid
    });
    Ok(told
        .map(|event| event["series"]["count"].as_u64().unwrap_or(1))
        .sum())
}

/// Requests by which the operator has applied the DaemonSet of [`EDGE`] so far.
fn applied(world: &World<'_>) -> Result<usize> {
    let log = std::fs::read_to_string(world.rig.audit_log()).context("there is no audit log")?;
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
fn field(world: &World<'_>, name: &str, path: &str) -> Result<String> {
    let output = format!("jsonpath={{{path}}}");
    world
        .rig
        .kubectl(["get", "peerrelay", name, "-n", NAMESPACE, "-o", &output])
}
