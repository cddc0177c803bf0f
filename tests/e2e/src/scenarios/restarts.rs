//! Relays that end while clients talk: the next one on the node goes on with their sessions.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rig::world::{NAMESPACE, World};
use serde_json::{Value, json};

use super::endpoints::with_endpoints;
use super::{EDGE, Scenario, relayed, reset};

const PORT: u16 = 7_002;
const BULK_PORT: u16 = 7_003;
/// A UDP port of the nodes that nothing listens on.
const CLOSED_PORT: u16 = 41_998;
/// Bytes through the tunnel.
const BULK: u64 = 1_000_000_000;
/// A relay is away for a second or two, in which a session between IPv4 and IPv6 is not forwarded; after
/// 6.5 seconds of silence clients leave it.
pub(crate) const STALL: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "TCP goes on when its relay is killed, and when its pod is deleted",
            run: replaced,
        },
        Scenario {
            name: "a roll-out pauses while replaced relays are ready but not reached, and goes on after",
            run: paused,
        },
        Scenario {
            name: "1 GB arrives unchanged while the relay's pod is deleted and a roll-out replaces all",
            run: under_load,
        },
    ]
}

fn replaced(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    let server = world.probe(c2, &["serve", &PORT.to_string()])?;
    let to = SocketAddr::new(c2.addresses()?[0].parse()?, PORT).to_string();
    relayed(world)?;
    let held = world.probe(c1, &["hold", &to])?;
    let session = relayed(world)?;

    let pod = pod_of(world, &session)?;
    let start = Instant::now();
    kill(world, &pod)?;
    world.eventually("the container runs again", || {
        let now = pod_of(world, &session)?;
        ensure!(restarts(&now) > restarts(&pod), "it was not started again");
        goes_on(world, &now)
    })?;
    let killed = start.elapsed();
    stays(world, &session, &relayed(world)?)?;

    let start = Instant::now();
    let name = name(&pod)?;
    world
        .rig
        .kubectl(["delete", "pod", "-n", "relays", name, "--wait=false"])?;
    world.eventually("another pod has the session", || {
        let now = pod_of(world, &session)?;
        ensure!(self::name(&now)? != name, "the pod is still there");
        goes_on(world, &now)
    })?;
    let deleted = start.elapsed();
    let now = relayed(world)?;
    stays(world, &session, &now)?;
    let trips = held.finish().context("a TCP connection over the relay")?;
    drop(server);
    ensure!(
        longest(&trips)? < STALL,
        "{session} has become {now}; {trips}"
    );
    Ok(format!(
        "{session}, then {now}; on one connection {trips}; relay back {:.1} s after SIGKILL, {:.1} s \
         after its deletion",
        killed.as_secs_f64(),
        deleted.as_secs_f64()
    ))
}

/// Clients may find the other relay quicker, and change to it; one that they stay with has the session.
pub(crate) fn stays(world: &World<'_>, session: &str, now: &str) -> Result<()> {
    let node =
        |session| Ok::<_, anyhow::Error>(pod_of(world, session)?["spec"]["nodeName"].clone());
    ensure!(
        now == session || node(now)? != node(session)?,
        "{session} has become {now}"
    );
    Ok(())
}

pub(crate) fn longest(trips: &str) -> Result<Duration> {
    let millis = trips
        .strip_suffix(" ms")
        .and_then(|text| text.rsplit(' ').next());
    let millis = millis.with_context(|| format!("no time in {trips:?}"))?;
    Ok(Duration::from_millis(millis.parse()?))
}

fn under_load(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    let server = world.probe(c2, &["serve", &BULK_PORT.to_string()])?;
    let to = SocketAddr::new(c2.addresses()?[0].parse()?, BULK_PORT).to_string();
    let session = relayed(world)?;
    let set = format!("daemonset/{EDGE}-office");
    let sent = thread::scope(|scope| {
        let send = || world.probe(c1, &["send", &to, &BULK.to_string()])?.finish();
        let sent = scope.spawn(send);
        let disturbed = (|| {
            let pod = pod_of(world, &session)?;
            let rig = world.rig;
            let before = uids(world)?;
            rig.kubectl([
                "delete",
                "pod",
                "-n",
                NAMESPACE,
                name(&pod)?,
                "--wait=false",
            ])?;
            rig.kubectl(["rollout", "restart", &set, "-n", NAMESPACE])?;
            ensure!(
                !sent.is_finished(),
                "all was sent before the roll-out began"
            );
            all_replaced(world, &before)
        })();
        let sent = sent.join().map_err(|_| anyhow!("the sender panicked"))?;
        disturbed.and(sent)
    })?;
    drop(server);
    let now = relayed(world)?;
    Ok(format!("{sent}, by {session} and then {now}"))
}

/// Relays advertise a port that nothing listens on, so that no other relay reaches them.
fn paused(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let per_node: Value = world
        .rig
        .nodes
        .iter()
        .map(|node| {
            let address = format!("{}:{CLOSED_PORT}", node.machine.v4);
            (node.machine.name.to_owned(), json!([address]))
        })
        .collect();
    let unreached = json!({"advertise": "StaticOnly", "perNode": per_node});
    let template = json!({"annotations": {"example.com/roll-out": "begun"}});
    let spec = |endpoints: &Value| {
        let mut spec = with_endpoints(endpoints);
        spec["template"] = template.clone();
        spec
    };
    let before = uids(world)?;
    world.apply(EDGE, &with_endpoints(&unreached))?;
    world.eventually("no relay is reached", || {
        let verified = world.condition(EDGE, "EndpointsVerified")?;
        ensure!(verified.starts_with("False/"), "it is '{verified}'");
        Ok(())
    })?;
    world.apply(EDGE, &spec(&unreached))?;
    let strategy = |wanted: &str| {
        world.eventually(wanted, || {
            let set = world.object("daemonset", &format!("{EDGE}-office"))?;
            let now = &set["spec"]["updateStrategy"]["type"];
            ensure!(now == wanted, "updateStrategy is {now}");
            Ok(())
        })
    };
    strategy("OnDelete")?;
    let relay = world.object("peerrelay", EDGE)?;
    let message = relay["status"]["conditions"].to_string();
    ensure!(
        message.contains("reached by another relay"),
        "nobody says who waits: {message}"
    );
    let paused = uids(world)?;
    ensure!(!paused.is_disjoint(&before), "no relay waits");

    let start = Instant::now();
    world.apply(EDGE, &spec(&json!({})))?;
    all_replaced(world, &before)?;
    strategy("RollingUpdate")?;
    let finished = start.elapsed().as_secs();
    Ok(format!("finished {finished} s after relays were reached"))
}

/// Waits until none of these pods is left. `kubectl rollout status` refuses a DaemonSet whose roll-out
/// the operator has paused.
fn all_replaced(world: &World<'_>, before: &BTreeSet<String>) -> Result<()> {
    world.eventually("every relay is replaced", || {
        let now = uids(world)?;
        ensure!(
            now.len() == before.len() && now.is_disjoint(before),
            "{before:?} have become {now:?}"
        );
        Ok(())
    })?;
    world.wait_ready(EDGE)
}

/// Identifiers of the relays' pods.
fn uids(world: &World<'_>) -> Result<BTreeSet<String>> {
    let pods = world.list("pods", EDGE)?;
    Ok(pods
        .iter()
        .map(|p| p["metadata"]["uid"].to_string())
        .collect())
}

/// The relay of the pod's node forwards for a session that it has not given out itself.
fn goes_on(world: &World<'_>, pod: &Value) -> Result<()> {
    let host = pod["spec"]["nodeName"].as_str().context("no node")?;
    let node = world.rig.nodes.iter().find(|n| n.machine.name == host);
    let samples = world.metrics(node.context("no such node")?)?;
    let sum = |prefix: &str| {
        let matching = samples.iter().filter(|(name, _)| name.starts_with(prefix));
        matching.map(|(_, value)| value).sum::<f64>()
    };
    ensure!(
        sum("peerrelay_forwarded_packets_total") > 0.0,
        "nothing is forwarded yet"
    );
    // Clients ask again once a minute; a session that went on is there already.
    let new = sum("peerrelay_allocations_total{session=\"new\"");
    ensure!(new == 0.0, "{new} sessions were given out anew");
    Ok(())
}

/// The relay's pod on the node that has the address of `session`.
fn pod_of(world: &World<'_>, session: &str) -> Result<Value> {
    let address = session.split(":40000").next().unwrap_or_default();
    let address = address.trim_matches(['[', ']']);
    let node = world.rig.nodes.iter().find(|node| {
        let machine = &node.machine;
        format!("{machine:?}").contains(address)
    });
    let node = node.with_context(|| format!("no node has {address}"))?;
    let pods = world
        .rig
        .kubectl(["get", "pods", "-n", "relays", "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    pods.into_iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .find(|pod| pod["spec"]["nodeName"] == node.machine.name)
        .context("no relay pod on the node")
}

fn kill(world: &World<'_>, pod: &Value) -> Result<()> {
    let host = pod["spec"]["nodeName"].as_str().context("no node")?;
    let node = world.rig.nodes.iter().find(|n| n.machine.name == host);
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str();
    let id = id.and_then(|id| id.rsplit('/').next());
    node.context("no such node")?
        .ctr([
            "tasks",
            "kill",
            "--signal",
            "SIGKILL",
            id.context("the container has no id")?,
        ])
        .map(drop)
}

fn restarts(pod: &Value) -> i64 {
    let status = &pod["status"]["containerStatuses"][0];
    status["restartCount"].as_i64().unwrap_or(0)
}

fn name(pod: &Value) -> Result<&str> {
    pod["metadata"]["name"].as_str().context("no name")
}
