//! Pods that cannot run, relays that may not, and the reason that the status gives.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::auth_key::AuthKey;
use rig::process;
use rig::signals;
use rig::world::{NAMESPACE, World, message};
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

/// In which a relay and the operator tell what control says.
const SOON: Duration = Duration::from_secs(10);
/// Relays that can run beside those of [`EDGE`].
const OTHER: &str = "other";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a namespace that forbids relays is named with the label to set, and setting it recovers",
            run: forbidden,
        },
        Scenario {
            name: "a port that another pod has, an image that is missing and a crash each have their reason",
            run: pods,
        },
        Scenario {
            name: "a metrics port that a process outside of Kubernetes has is named, and the relay \
                   serves there once it is free",
            run: metrics_port,
        },
        Scenario {
            name: "relays whose auth key may not use their tag say which tag is missing, also after a \
                   restart, and the right key mends it",
            run: tag_missing,
        },
        Scenario {
            name: "a policy that turns relays off, and a node key that expires, are each told within \
                   10 s, and so is their end",
            run: told_by_control,
        },
    ]
}

fn forbidden(world: &World<'_>) -> Result<String> {
    world.delete(EDGE)?;
    label(world, "baseline")?;
    let start = Instant::now();
    world.apply(OTHER, &elsewhere())?;
    let said = stalled(world, OTHER, "PodSecurityForbidden")?;
    let found = start.elapsed().as_secs();
    let fix = "kubectl label namespace relays pod-security.kubernetes.io/enforce=privileged";
    ensure!(
        said.contains(fix),
        "the message does not name the label: {said}"
    );
    label(world, "privileged")?;
    let set = format!("daemonset/{OTHER}-office");
    world
        .rig
        .kubectl(["rollout", "restart", &set, "-n", NAMESPACE])?;
    world.wait_ready(OTHER)?;
    ensure!(
        world.condition(OTHER, "Stalled")?.is_empty(),
        "Stalled stays"
    );
    world.delete(OTHER)?;
    Ok(format!("told after {found} s"))
}

fn pods(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let mut spec = elsewhere();
    spec["port"] = json!(40_000);
    let mut found = Vec::new();
    let mut timed = |reason: &str, start: Instant| {
        found.push(format!("{reason} after {} s", start.elapsed().as_secs()));
    };

    let start = Instant::now();
    world.apply(OTHER, &spec)?;
    let said = stalled(world, OTHER, "HostPortConflict")?;
    let names = ["UDP port 40000 of node", "PeerRelay relays/edge"];
    ensure!(names.iter().all(|name| said.contains(name)), "{said}");
    timed("HostPortConflict", start);
    world.delete(OTHER)?;

    let pod = first_pod(world)?;
    let patch = r#"{"spec":{"containers":[{"name":"relay","image":"example.test/none:1"}]}}"#;
    let start = Instant::now();
    world
        .rig
        .kubectl(["patch", "pod", &pod, "-n", NAMESPACE, "-p", patch])?;
    stalled(world, EDGE, "ImagePullFailed")?;
    timed("ImagePullFailed", start);
    world
        .rig
        .kubectl(["delete", "pod", &pod, "-n", NAMESPACE])?;
    world.wait_ready(EDGE)?;

    let pod = first_pod(world)?;
    let start = Instant::now();
    world.eventually("a crash loop is told", || {
        // Each restart is a new process, until the kubelet waits.
        if let Some(pid) = process_of(&pod) {
            signals::kill(pid);
        }
        let ready = world.condition(EDGE, "Ready")?;
        ensure!(ready == "False/CrashLooping", "Ready is '{ready}'");
        Ok(())
    })?;
    timed("CrashLooping", start);
    world.wait_ready(EDGE)?;
    let events = world
        .rig
        .kubectl(["get", "events", "-n", NAMESPACE, "-o", "json"])?;
    for reason in ["HostPortConflict", "ImagePullFailed", "CrashLooping"] {
        ensure!(events.contains(reason), "no event says {reason}");
    }
    Ok(found.join(", "))
}

fn metrics_port(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let node = world.rig.nodes.first().context("no node")?;
    let holder = world.probe_on(node, &["serve", "40201"])?;
    let start = Instant::now();
    world.apply(OTHER, &elsewhere())?;
    let said = stalled(world, OTHER, "HostPortConflict")?;
    let took = start.elapsed().as_secs();
    let port = format!("TCP port 40201 of node {}", node.machine.name);
    ensure!(
        said.contains(&port) && said.contains("spec.monitoring.port"),
        "{said}"
    );
    drop(holder);
    world.wait_ready(OTHER)?;
    for pod in world.list("pods", OTHER)? {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        ensure!(*restarts == 0, "a relay was restarted {restarts} times");
    }
    world.delete(OTHER)?;
    Ok(format!("told after {took} s"))
}

/// The key belongs to a user who does not own the relays' tag: control refuses the tag, and lets the
/// device in without.
fn tag_missing(world: &World<'_>) -> Result<String> {
    reset(world)?;
    world.delete(EDGE)?;
    let (member, tagged) = (
        AuthKey::new("tskey-auth-member"),
        AuthKey::new("tskey-auth-tagged"),
    );
    world.rig.tailnet.add_key(&member, &[])?;
    world.write_secret(&member)?;
    let name = &format!("untagged-{}", std::process::id());
    world.apply(name, &json!({}))?;
    let said = stalled(world, name, "TagMissing")?;
    ensure!(
        said.contains("tag:relay-office") && said.contains("auth key"),
        "the message does not name the remedy: {said}"
    );
    restarted_without_tag(world, name)?;
    world.rig.tailnet.add_key(&tagged, &["tag:relay-office"])?;
    world.write_secret(&tagged)?;
    let start = Instant::now();
    world.wait_ready(name)?;
    world.delete(name)?;
    world.write_secret(&world.rig.tailnet.auth_key())?;
    Ok(format!(
        "ready {} s after the right key",
        start.elapsed().as_secs()
    ))
}

/// A relay that asked for its tag again when it starts anew would lose its node key.
fn restarted_without_tag(world: &World<'_>, name: &str) -> Result<()> {
    let names = || -> Result<BTreeSet<String>> {
        let pods = world.list("pods", name)?;
        let names = pods
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    };
    let before = names()?;
    let label = format!("peerrelay.dev/peer-relay={name}");
    world
        .rig
        .kubectl(["delete", "pods", "-n", NAMESPACE, "-l", &label])?;
    world.eventually("relays that were restarted lack their tag", || {
        let mut reports = world.reports(name)?;
        let of = |report: &Value| report["metadata"]["name"].as_str().map(str::to_owned);
        reports.retain(|report| of(report).is_none_or(|pod| !before.contains(&pod)));
        let reasons: Vec<_> = reports.iter().map(|r| &r["status"]["reason"]).collect();
        ensure!(
            reasons == [&json!("TagMissing"), &json!("TagMissing")],
            "they report {reasons:?}"
        );
        Ok(())
    })?;
    stalled(world, name, "TagMissing").map(drop)
}

fn told_by_control(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let tailnet = &world.rig.tailnet;
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
        let told = all(true).and_then(|()| {
            let soon = || {
                let is = world.condition(EDGE, "TailnetConnected")?;
                ensure!(
                    is == format!("False/{reason}"),
                    "TailnetConnected is '{is}'"
                );
                Ok(())
            };
            process::wait_until(SOON, || true, soon)?;
            took = start.elapsed();
            stalled(world, EDGE, reason).map(drop)
        });
        all(false)?;
        told.context(reason)?;
        let start = Instant::now();
        world.wait_ready(EDGE)?;
        found.push(format!(
            "{reason} after {:.1} s, ready {:.1} s after its end",
            took.as_secs_f64(),
            start.elapsed().as_secs_f64()
        ));
    }
    Ok(found.join(", "))
}

/// A port that nobody else has.
fn elsewhere() -> Value {
    json!({"port": 40_200})
}

/// Waits until a PeerRelay stalls for this reason, and gives the message.
fn stalled(world: &World<'_>, name: &str, reason: &str) -> Result<String> {
    world.eventually(reason, || {
        for (kind, wanted) in [("Stalled", "True"), ("Ready", "False")] {
            let is = world.condition(name, kind)?;
            ensure!(is == format!("{wanted}/{reason}"), "{kind} is '{is}'");
        }
        Ok(())
    })?;
    Ok(message(&world.object("peerrelay", name)?, "Ready"))
}

fn label(world: &World<'_>, level: &str) -> Result<()> {
    let label = format!("pod-security.kubernetes.io/enforce={level}");
    world
        .rig
        .kubectl(["label", "namespace", NAMESPACE, &label, "--overwrite"])
        .map(drop)
}

fn first_pod(world: &World<'_>) -> Result<String> {
    let pods = world.list("pods", EDGE)?;
    let name = pods
        .first()
        .and_then(|pod| pod["metadata"]["name"].as_str());
    name.map(str::to_owned).context("no relay runs")
}

/// The relay process of a pod, which knows its pod from its environment.
pub(super) fn process_of(pod: &str) -> Option<i32> {
    let wanted = format!("POD_NAME={pod}");
    process::running().ok()?.find_map(|(pid, entry)| {
        let environment = fs::read(entry.join("environ")).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .any(|variable| variable == wanted.as_bytes())
            .then_some(pid)
    })
}
