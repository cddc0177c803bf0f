//! Relays that share nodes with others, or the cluster with nodes on which none can run.

use anyhow::{Context, Result, ensure};
use rig::command::{program_in, run};
use rig::world::{NAMESPACE, World, message};
use serde_json::{Value, json};

use super::regions::running;
use super::{EDGE, MINUTE, Scenario, vacant};

/// A second PeerRelay.
const OTHER: &str = "other";
/// Nodes that the tests make, without a machine.
const MADE: [&str; 4] = ["windows-1", "mainframe-1", "virtual-1", "dead-1"];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two PeerRelays share nodes with different ports, avoid each other with one, and name \
                   a metrics port that is stored in both",
            run: beside,
        },
        Scenario {
            name: "nodes of other kinds get no relay, and a dead node holds up no roll-out",
            run: kinds,
        },
    ]
}

fn beside(world: &World<'_>) -> Result<String> {
    vacant(world)?;
    let one = |port: u16| {
        let region = json!({
            "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
        });
        json!({"port": port, "regions": [region]})
    };
    let seen = apart(world, &one).and_then(|()| {
        // Nothing but the port is another.
        world.apply(EDGE, &json!({}))?;
        world.apply(OTHER, &json!({"port": 40_300}))?;
        for name in [EDGE, OTHER] {
            world.eventually("both are on both nodes", || {
                let relays = world.object("peerrelay", name)?["status"]["relays"].clone();
                ensure!(relays == "2/2", "relays of {name}: {relays}");
                Ok(())
            })?;
            world.wait_ready(name)?;
        }
        let seen = answered(world)?;
        stored_port(world)?;
        Ok(seen)
    });
    world.delete(OTHER)?;
    world.delete(EDGE)?;
    seen
}

/// With one port and one relay each, the two are on different nodes; a third finds none.
fn apart(world: &World<'_>, one: &dyn Fn(u16) -> Value) -> Result<()> {
    world.apply(EDGE, &one(40_000))?;
    world.wait_ready(EDGE)?;
    world.apply(OTHER, &one(40_000))?;
    world.wait_ready(OTHER)?;
    let nodes = |name: &str| -> Result<Vec<String>> {
        let pods = world.list("pods", name)?;
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        Ok(pods.iter().filter_map(node).collect())
    };
    let (ours, theirs) = (nodes(EDGE)?, nodes(OTHER)?);
    ensure!(
        ours.len() == 1 && theirs.len() == 1 && ours != theirs,
        "relays on {ours:?} and {theirs:?}"
    );
    world.delete(OTHER)?;
    world.apply(EDGE, &json!({}))?;
    world.eventually("the first has both nodes", || {
        let relays = world.object("peerrelay", EDGE)?["status"]["relays"].clone();
        ensure!(relays == "2/2", "relays: {relays}");
        Ok(())
    })?;
    world.apply(OTHER, &one(40_000))?;
    world.eventually("who has the port is told", || {
        let status = world.object("peerrelay", OTHER)?["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let stalled = conditions.iter().find(|c| c["type"] == "Stalled");
        let stalled = stalled.context("it does not stall")?;
        let says = stalled["message"].as_str().unwrap_or_default();
        let names = ["UDP port 40000 of node", "PeerRelay relays/edge"];
        let named = names.iter().all(|name| says.contains(name));
        ensure!(
            stalled["reason"] == "HostPortConflict" && named,
            "{stalled}"
        );
        Ok(())
    })?;
    // It recovers by itself when the port is free.
    world.delete(EDGE)?;
    world.wait_ready(OTHER)?;
    world.delete(OTHER)
}

/// Earlier versions stored 9440 in every PeerRelay: the message says what to remove.
fn stored_port(world: &World<'_>) -> Result<()> {
    let stored = |port: u16| json!({"port": port, "monitoring": {"port": 9_440}});
    world.apply(EDGE, &stored(40_000))?;
    world.apply(OTHER, &stored(40_300))?;
    world.eventually("the port and the field are told", || {
        let is = world.condition(OTHER, "Stalled")?;
        let said = message(&world.object("peerrelay", OTHER)?, "Stalled");
        let words = [
            "TCP port 9440 of node",
            "PeerRelay relays/edge",
            "remove spec.monitoring.port",
        ];
        let named = words.iter().all(|word| said.contains(word));
        ensure!(
            is == "True/HostPortConflict" && named,
            "Stalled is '{is}': {said}"
        );
        Ok(())
    })?;
    let patch = r#"[{"op": "remove", "path": "/spec/monitoring/port"}]"#;
    world.rig.kubectl([
        "patch",
        "peerrelay",
        OTHER,
        "-n",
        NAMESPACE,
        "--type=json",
        "-p",
        patch,
    ])?;
    world.wait_ready(OTHER)
}

/// A probe that reaches the other relay is not taken for an answer.
fn answered(world: &World<'_>) -> Result<String> {
    let node = world.rig.nodes.first().context("no node")?;
    let ask = |identity: &str| {
        let mut curl = program_in(node.machine.namespace, "curl");
        let header = format!("peerrelay-identity: {identity}");
        let url = "http://127.0.0.1:9440/healthz";
        let words = ["-s", "-o", "/dev/null", "-w", "%{http_code}"];
        run(curl.args(words).args(["-H", &header, url]))
    };
    let (own, other) = (
        ask(&format!("{NAMESPACE}/{EDGE}/office"))?,
        ask(&format!("{NAMESPACE}/{OTHER}/office"))?,
    );
    ensure!(
        own.trim() == "200" && other.trim() == "421",
        "a probe is answered {own}, one for the other relay {other}"
    );
    Ok("apart with one port, both on both nodes with two; a probe for the other gets 421".into())
}

fn kinds(world: &World<'_>) -> Result<String> {
    vacant(world)?;
    let seen = made(world)
        .and_then(|()| none_there(world))
        .and_then(|()| rolled_out(world));
    world.delete(EDGE)?;
    for name in MADE {
        world.remove_node(name)?;
    }
    seen
}

fn made(world: &World<'_>) -> Result<()> {
    world.add_node(MADE[0], &json!({"kubernetes.io/os": "windows"}))?;
    world.add_node(MADE[1], &json!({"kubernetes.io/arch": "s390x"}))?;
    world.add_node(MADE[2], &json!({"type": "virtual-kubelet"}))
}

/// With and without a number, and although everything is tolerated.
fn none_there(world: &World<'_>) -> Result<()> {
    let tolerant = |most: Option<u16>| {
        let mut placement = json!({"tolerations": [{"operator": "Exists"}]});
        if let Some(most) = most {
            placement["maxRelays"] = json!(most);
        }
        json!({"regions": [{
            "name": "office", "clients": ["tag:office"], "placement": placement,
        }]})
    };
    for most in [None, Some(5)] {
        world.apply(EDGE, &tolerant(most))?;
        world.eventually("two relays on two nodes", || {
            let status = world.object("peerrelay", EDGE)?["status"].clone();
            let generation = world.object("peerrelay", EDGE)?["metadata"]["generation"].clone();
            let told = (
                status["relays"].clone(),
                status["regions"][0]["nodes"].clone(),
            );
            ensure!(
                told == (json!("2/2"), json!(2)) && status["observedGeneration"] == generation,
                "relays and nodes: {told:?}"
            );
            Ok(())
        })?;
        world.wait_ready(EDGE)?;
        let pods = world.list("pods", EDGE)?;
        ensure!(pods.len() == 2, "{} pods", pods.len());
    }
    world.delete(EDGE)
}

/// A node that never answers has a relay that never starts; the others are replaced all the same.
fn rolled_out(world: &World<'_>) -> Result<String> {
    world.add_node(MADE[3], &json!({}))?;
    let three = |round: &str| {
        json!({
            "regions": [{
                "name": "office", "clients": ["tag:office"],
                "placement": {
                    "maxRelays": 3,
                    "tolerations": [
                        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
                        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
                    ],
                },
            }],
            "template": {"annotations": {"example.net/round": round}},
        })
    };
    world.apply(EDGE, &three("1"))?;
    let in_round = |round: &'static str| {
        move || {
            let pods = world.list("pods", EDGE)?;
            let alive = pods
                .iter()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            let there = alive.filter(|pod| {
                pod["metadata"]["annotations"]["example.net/round"] == *round
                    && pod["spec"]["nodeName"] != MADE[3]
                    && ready(pod)
            });
            ensure!(there.count() == 2, "not both relays are in round {round}");
            let relays = world.object("peerrelay", EDGE)?["status"]["relays"].clone();
            ensure!(relays == "2/3", "relays: {relays}");
            Ok(())
        }
    };
    world.eventually("two of three relays are ready", in_round("1"))?;
    let before = running(world)?;
    let start = std::time::Instant::now();
    world.apply(EDGE, &three("2"))?;
    // Between the two, one reads of the other in its ConfigMap and reaches it.
    rig::process::wait_until(MINUTE * 3, || true, in_round("2"))?;
    let took = start.elapsed().as_secs();
    let after = running(world)?;
    ensure!(
        before.keys().eq(after.keys()),
        "{before:?} became {after:?}"
    );
    Ok(format!(
        "no relay on three nodes of other kinds; two replaced in {took} s beside a dead node"
    ))
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}
