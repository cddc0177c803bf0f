//! Pods that cannot run, relays without a right, and the reasons in the status.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    cluster::Cluster,
    deployment::{Deployment, message},
    names::NAMESPACE,
    signals,
    tailnet::{NewKey, User},
    wait::Wait,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

/// Wait until the status has the state that the control server gives.
const SOON: Wait = Wait::new(5, 10);
/// Relays that can run beside those of [`EDGE`].
const OTHER: &str = "other";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a namespace that forbids relays is reported with the label to set, and \
                   the label recovers it",
            run: forbidden,
        },
        Scenario {
            name: "a port that another pod uses, a missing image and a crash each have a \
                   reason of their own",
            run: pods,
        },
        Scenario {
            name: "a metrics port that a process outside of Kubernetes uses is reported, \
                   and the relay serves there once it is free",
            run: metrics_port,
        },
        Scenario {
            name: "relays whose auth key may not use their tag report the missing tag, also \
                   after a restart, and recover with the right key",
            run: tag_missing,
        },
        Scenario {
            name: "a policy that disables relays and an expired node key are each reported \
                   within 10 s, and relays recover afterwards",
            run: reported_by_control,
        },
    ]
}

fn forbidden(deployment: &Deployment<'_>) -> Result<String> {
    deployment.delete(EDGE)?;
    label(deployment, "baseline")?;
    let start = Instant::now();
    deployment.apply(OTHER, &elsewhere())?;
    let said = stalled(deployment, OTHER, "PodSecurityForbidden")?;
    let found = start.elapsed().as_secs();
    let fix = "kubectl label namespace relays pod-security.kubernetes.io/enforce=privileged";
    ensure!(
        said.contains(fix),
        "the message does not name the label: {said}"
    );
    label(deployment, "privileged")?;
    let set = format!("daemonset/{OTHER}-office");
    deployment
        .rig
        .kubectl(["rollout", "restart", &set, "-n", NAMESPACE])?;
    deployment.wait_ready(OTHER)?;
    ensure!(
        deployment.condition(OTHER, "Stalled")?.is_empty(),
        "Stalled stays"
    );
    deployment.delete(OTHER)?;
    Ok(format!("reported after {found} s"))
}

fn pods(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let mut spec = elsewhere();
    spec["port"] = json!(40_000);
    let mut found = Vec::new();
    let mut timed = |reason: &str, start: Instant| {
        found.push(format!("{reason} after {} s", start.elapsed().as_secs()));
    };

    let start = Instant::now();
    deployment.apply(OTHER, &spec)?;
    let said = stalled(deployment, OTHER, "HostPortConflict")?;
    let names = ["UDP port 40000 of node", "PeerRelay relays/edge"];
    ensure!(names.iter().all(|name| said.contains(name)), "{said}");
    timed("HostPortConflict", start);
    deployment.delete(OTHER)?;

    let pod = first_pod(deployment)?;
    let patch = r#"{"spec":{"containers":[{"name":"relay","image":"example.test/none:1"}]}}"#;
    let start = Instant::now();
    deployment
        .rig
        .kubectl(["patch", "pod", &pod, "-n", NAMESPACE, "-p", patch])?;
    stalled(deployment, EDGE, "ImagePullFailed")?;
    timed("ImagePullFailed", start);
    deployment
        .rig
        .kubectl(["delete", "pod", &pod, "-n", NAMESPACE])?;
    deployment.wait_ready(EDGE)?;

    let pod = first_pod(deployment)?;
    let start = Instant::now();
    deployment.eventually("the status reports a crash loop", || {
        // Each restart is a new process, until the kubelet waits.
        if let Ok(pid) = Cluster::process_of_pod(&pod) {
            signals::kill(pid);
        }
        let ready = deployment.condition(EDGE, "Ready")?;
        ensure!(ready == "False/CrashLooping", "Ready is '{ready}'");
        Ok(())
    })?;
    timed("CrashLooping", start);
    deployment.wait_ready(EDGE)?;
    let events = deployment
        .rig
        .kubectl(["get", "events", "-n", NAMESPACE, "-o", "json"])?;
    for reason in ["HostPortConflict", "ImagePullFailed", "CrashLooping"] {
        ensure!(events.contains(reason), "no event says {reason}");
    }
    Ok(found.join(", "))
}

fn metrics_port(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let node = deployment.rig.nodes.first().context("no node")?;
    let holder = deployment.probe_on(node, &["serve", "40201"])?;
    let start = Instant::now();
    deployment.apply(OTHER, &elsewhere())?;
    let said = stalled(deployment, OTHER, "HostPortConflict")?;
    let took = start.elapsed().as_secs();
    let port = format!("TCP port 40201 of node {}", node.machine.name);
    ensure!(
        said.contains(&port) && said.contains("spec.monitoring.port"),
        "{said}"
    );
    drop(holder);
    deployment.wait_ready(OTHER)?;
    for pod in deployment.list("pods", OTHER)? {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        ensure!(*restarts == 0, "a relay was restarted {restarts} times");
    }
    deployment.delete(OTHER)?;
    Ok(format!("reported after {took} s"))
}

/// The key belongs to a user who does not own the relays' tag: control refuses the tag, and lets the
/// device in without.
fn tag_missing(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.delete(EDGE)?;
    let tailnet = &deployment.rig.tailnet;
    let member = tailnet.api(User::Member)?.mint(&NewKey::reusable())?;
    deployment.write_secret(&member)?;
    let name = &format!("untagged-{}", std::process::id());
    deployment.apply(name, &json!({}))?;
    let said = stalled(deployment, name, "TagMissing")?;
    ensure!(
        said.contains("tag:relay-office") && said.contains("auth key"),
        "the message does not name the remedy: {said}"
    );
    restarted_without_tag(deployment, name)?;
    let tagged = NewKey::reusable().with_tags(&["tag:relay-office"]);
    deployment.write_secret(&tailnet.api(User::Admin)?.mint(&tagged)?)?;
    let start = Instant::now();
    deployment.wait_ready(name)?;
    deployment.delete(name)?;
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)?;
    Ok(format!(
        "ready {} s after the right key",
        start.elapsed().as_secs()
    ))
}

/// A relay that asked for its tag again when it starts anew would lose its node key.
fn restarted_without_tag(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    let names = || -> Result<BTreeSet<String>> {
        let pods = deployment.list("pods", name)?;
        let names = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    let before = names()?;
    let label = format!("peerrelay.dev/peer-relay={name}");
    deployment
        .rig
        .kubectl(["delete", "pods", "-n", NAMESPACE, "-l", &label])?;
    deployment.eventually("relays that were restarted lack their tag", || {
        let mut reports = deployment.reports(name)?;
        let of = |report: &Value| report["metadata"]["name"].as_str().map(str::to_owned);
        reports.retain(|report| of(report).is_none_or(|pod| !before.contains(&pod)));
        let reasons: Vec<_> = reports.iter().map(|r| &r["status"]["reason"]).collect();
        ensure!(
            reasons == [&json!("TagMissing"), &json!("TagMissing")],
            "they report {reasons:?}"
        );
        Ok(())
    })?;
    stalled(deployment, name, "TagMissing").map(drop)
}

fn reported_by_control(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let nodes = tailnet.nodes()?;
    let relays = nodes
        .iter()
        .filter(|node| node.peer_relay && node.streaming);
    let names: Vec<_> = relays.map(|node| &*node.name).collect();
    ensure!(!names.is_empty(), "no relay is in the tailnet");
    let disable = |name: &str, set| tailnet.set_attribute(name, "disable-relay-server", set);
    let expire = |name: &str, set| tailnet.expire(name, set);
    let mut found = Vec::new();
    type Change<'a> = &'a dyn Fn(&str, bool) -> Result<()>;
    for (reason, change) in [
        ("RelayDisabledByPolicy", &disable as Change<'_>),
        ("KeyExpired", &expire),
    ] {
        let all = |set| names.iter().try_for_each(|name| change(name, set));
        let start = Instant::now();
        let mut took = Duration::ZERO;
        let reported = all(true).and_then(|()| {
            let soon = || {
                let is = deployment.condition(EDGE, "TailnetConnected")?;
                ensure!(
                    is == format!("False/{reason}"),
                    "TailnetConnected is '{is}'"
                );
                Ok(())
            };
            let called = start.elapsed();
            took = called + SOON.until(reason, soon)?;
            stalled(deployment, EDGE, reason).map(drop)
        });
        all(false)?;
        reported.context(reason)?;
        let start = Instant::now();
        deployment.wait_ready(EDGE)?;
        found.push(format!(
            "{reason} after {:.1} s, ready {:.1} s after its end",
            took.as_secs_f64(),
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(found.join(", "))
}

/// A specification with ports that no other PeerRelay uses.
fn elsewhere() -> Value {
    json!({"port": 40_200})
}

/// Waits until a PeerRelay stalls for this reason, and gives the message.
pub(super) fn stalled(deployment: &Deployment<'_>, name: &str, reason: &str) -> Result<String> {
    deployment.eventually(reason, || {
        for (kind, wanted) in [("Stalled", "True"), ("Ready", "False")] {
            let is = deployment.condition(name, kind)?;
            ensure!(is == format!("{wanted}/{reason}"), "{kind} is '{is}'");
        }
        Ok(())
    })?;
    Ok(message(&deployment.object("peerrelay", name)?, "Ready"))
}

fn label(deployment: &Deployment<'_>, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    deployment
        .rig
        .kubectl(["label", "namespace", NAMESPACE, &label, "--overwrite"])
        .map(drop)
}

fn first_pod(deployment: &Deployment<'_>) -> Result<String> {
    let pods = deployment.list("pods", EDGE)?;
    let name = pods
        .first()
        .and_then(|pod| pod["metadata"]["name"].as_str());
    name.map(str::to_owned).context("no relay runs")
}
