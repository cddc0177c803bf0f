//! Relays that end while clients talk: the next relay on the node continues their sessions.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use rig::{deployment::Deployment, names::NAMESPACE};
use serde_json::{Value, json};

use super::{
    EDGE, Scenario, carried::Counters, endpoints::with_endpoints, held::Held, relayed, reset,
};

const PORT: u16 = 7_002;
const BULK_PORT: u16 = 7_003;
/// A UDP port of the nodes that nothing listens on.
const CLOSED_PORT: u16 = 41_998;
/// Bytes through the tunnel.
const BULK: u64 = 1_000_000_000;
/// Longest round trip while a relay is replaced. That takes a second or two, in which a session between IPv4
/// and IPv6 is not forwarded; after 6.5 seconds of silence clients leave the relay.
pub(crate) const STALL: Duration = Duration::from_secs(5);

/// Share of the traffic, in percent, that clients may send elsewhere than to relays while these are replaced:
/// they keep looking for a direct path.
const STRAY_PERCENT: f64 = 10.0;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a TCP connection continues when its relay is killed, and when its pod is \
                   deleted",
            run: replaced,
        },
        Scenario {
            name: "a roll-out pauses while replaced relays are ready but not reached, and \
                   continues afterwards",
            run: paused,
        },
        Scenario {
            name: "1 GB arrives unchanged while the relay's pod is deleted and a roll-out replaces all",
            run: under_load,
        },
    ]
}

fn replaced(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;
    let session = relayed(deployment)?;
    let before = Counters::read(deployment)?;

    let pod = pod_of(deployment, &session)?;
    let start = Instant::now();
    kill(deployment, &pod)?;
    deployment.eventually("the container runs again", || {
        let now = pod_of(deployment, &session)?;
        ensure!(restarts(&now) > restarts(&pod), "it was not started again");
        continues(deployment, &now)
    })?;
    let killed = start.elapsed();
    stays(deployment, &session, &relayed(deployment)?)?;

    let start = Instant::now();
    let name = name(&pod)?;
    deployment
        .rig
        .kubectl(["delete", "pod", "-n", "relays", name, "--wait=false"])?;
    deployment.eventually("another pod has the session", || {
        let now = pod_of(deployment, &session)?;
        ensure!(self::name(&now)? != name, "the pod is still there");
        continues(deployment, &now)
    })?;
    let deleted = start.elapsed();
    let now = relayed(deployment)?;
    stays(deployment, &session, &now)?;
    let trips = held.finish().context("a TCP connection over the relay")?;
    let carried = Counters::read(deployment)?.since(&before);
    let ways = carried.mostly_to_relays(STRAY_PERCENT)?;
    ensure!(
        longest(&trips)? < STALL,
        "{session} has become {now}; {trips}"
    );
    Ok(format!(
        "{session}, then {now}; on one connection {trips}; {ways}; relay back {:.1} s after SIGKILL, \
         {:.1} s after its deletion",
        killed.as_secs_f64(),
        deleted.as_secs_f64()
    ))
}

/// Fails if clients have another session on the same relay. They may change to the other relay, and in a session
/// from one address of the relay to another one.
pub(crate) fn stays(deployment: &Deployment<'_>, session: &str, now: &str) -> Result<()> {
    let vni = |session: &str| session.rsplit_once(":vni:").map(|(_, vni)| vni.to_owned());
    let node =
        |session| Ok::<_, anyhow::Error>(pod_of(deployment, session)?["spec"]["nodeName"].clone());
    ensure!(
        vni(now) == vni(session) || node(now)? != node(session)?,
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

fn under_load(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let server = deployment.probe(c2, &["serve", &BULK_PORT.to_string()])?;
    let to = SocketAddr::new(c2.addresses()?[0].parse()?, BULK_PORT).to_string();
    let session = relayed(deployment)?;
    let set = format!("daemonset/{EDGE}-office");
    let counted = Counters::read(deployment)?;
    let sent = thread::scope(|scope| {
        let send = || {
            deployment
                .probe(c1, &["send", &to, &BULK.to_string()])?
                .finish()
        };
        let sent = scope.spawn(send);
        let disturbed = (|| {
            let pod = pod_of(deployment, &session)?;
            let rig = deployment.rig;
            let before = uids(deployment)?;
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
            all_replaced(deployment, &before)
        })();
        let sent = sent.join().map_err(|_| anyhow!("the sender panicked"))?;
        disturbed.and(sent)
    })?;
    drop(server);
    let carried = Counters::read(deployment)?.since(&counted);
    let ways = carried.sent_to_relays(BULK, STRAY_PERCENT)?;
    let now = relayed(deployment)?;
    Ok(format!("{sent}, by {session} and then {now}: {ways}"))
}

/// Relays advertise a port that nothing listens on, so that no other relay reaches them.
fn paused(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let per_node: Value = deployment
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
    let before = uids(deployment)?;
    deployment.apply(EDGE, &with_endpoints(&unreached))?;
    deployment.eventually("no relay is reached", || {
        let verified = deployment.condition(EDGE, "EndpointsVerified")?;
        ensure!(verified.starts_with("False/"), "it is '{verified}'");
        Ok(())
    })?;
    deployment.apply(EDGE, &spec(&unreached))?;
    let strategy = |wanted: &str| {
        deployment.soon(wanted, || {
            let set = deployment.object("daemonset", &format!("{EDGE}-office"))?;
            let now = &set["spec"]["updateStrategy"]["type"];
            ensure!(now == wanted, "updateStrategy is {now}");
            Ok(())
        })
    };
    strategy("OnDelete")?;
    let relay = deployment.object("peerrelay", EDGE)?;
    let message = relay["status"]["conditions"].to_string();
    ensure!(
        message.contains("reached by another relay"),
        "no message names the relays that wait: {message}"
    );
    let paused = uids(deployment)?;
    ensure!(!paused.is_disjoint(&before), "no relay waits");

    let start = Instant::now();
    deployment.apply(EDGE, &spec(&json!({})))?;
    all_replaced(deployment, &before)?;
    strategy("RollingUpdate")?;
    let finished = start.elapsed().as_secs();
    Ok(format!("finished {finished} s after relays were reached"))
}

/// Waits until none of these pods is left. `kubectl rollout status` refuses a DaemonSet whose roll-out
/// the operator has paused.
fn all_replaced(deployment: &Deployment<'_>, before: &BTreeSet<String>) -> Result<()> {
    deployment.eventually("every relay is replaced", || {
        let now = uids(deployment)?;
        ensure!(
            now.len() == before.len() && now.is_disjoint(before),
            "{before:?} have become {now:?}"
        );
        Ok(())
    })?;
    deployment.wait_ready(EDGE)
}

/// Identifiers of the relays' pods.
fn uids(deployment: &Deployment<'_>) -> Result<BTreeSet<String>> {
    let pods = deployment.list("pods", EDGE)?;
    Ok(pods
        .iter()
        .map(|p| p["metadata"]["uid"].to_string())
        .collect())
}

/// The relay of the pod's node forwards for a session that it has not allocated itself.
pub(crate) fn continues(deployment: &Deployment<'_>, pod: &Value) -> Result<()> {
    let host = pod["spec"]["nodeName"].as_str().context("no node")?;
    let node = deployment.rig.nodes.iter().find(|n| n.machine.name == host);
    let samples = deployment.metrics(node.context("no such node")?)?;
    let sum = |prefix: &str| {
        let matching = samples.iter().filter(|(name, _)| name.starts_with(prefix));
        matching.map(|(_, value)| value).sum::<f64>()
    };
    ensure!(
        sum("peerrelay_forwarded_packets_total") > 0.0,
        "nothing is forwarded yet"
    );
    // Clients request a session again once a minute; a continued session exists already.
    let new = sum("peerrelay_allocations_total{session=\"new\"");
    ensure!(new == 0.0, "{new} sessions were allocated anew");
    Ok(())
}

/// Returns the pod of the relay with which clients have a session.
pub(crate) fn pod_of(deployment: &Deployment<'_>, session: &str) -> Result<Value> {
    let address = session.split(":40000").next().unwrap_or_default();
    let address = address.trim_matches(['[', ']']);
    let node = deployment.rig.nodes.iter().find(|node| {
        let machine = &node.machine;
        format!("{machine:?}").contains(address)
    });
    let node = node.with_context(|| format!("no node has {address}"))?;
    let pods = deployment
        .rig
        .kubectl(["get", "pods", "-n", "relays", "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    pods.into_iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .find(|pod| pod["spec"]["nodeName"] == node.machine.name)
        .context("no relay pod on the node")
}

fn kill(deployment: &Deployment<'_>, pod: &Value) -> Result<()> {
    let host = pod["spec"]["nodeName"].as_str().context("no node")?;
    let node = deployment.rig.nodes.iter().find(|n| n.machine.name == host);
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
