//! Relays that share nodes with others, and nodes on which no relay can run.

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program_in, run},
    deployment::{Deployment, message},
    names::NAMESPACE,
    wait::Wait,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, regions::running, vacant};

/// A second PeerRelay.
const OTHER: &str = "other";
/// Nodes that the tests make, without a machine.
const MADE: [&str; 4] = ["windows-1", "mainframe-1", "virtual-1", "dead-1"];
/// Wait until two relays are replaced, one after the other. In between, the first has to read of the second
/// in its ConfigMap, which the kubelet updates within a minute or two, and to reach it.
const REPLACED: Wait = Wait::new(150, 225);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two PeerRelays share nodes with different ports, avoid each other with one, and name \
                   a metrics port that is stored in both",
            run: beside,
        },
        Scenario {
            name: "nodes of other kinds get no relay, and a dead node blocks no roll-out",
            run: kinds,
        },
    ]
}

fn beside(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let one = |port: u16| {
        let region = json!({
            "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
        });
        json!({"port": port, "regions": [region]})
    };
    let seen = apart(deployment, &one).and_then(|()| {
        // Only the port differs.
        deployment.apply(EDGE, &json!({}))?;
        deployment.apply(OTHER, &json!({"port": 40_300}))?;
        for name in [EDGE, OTHER] {
            deployment.eventually("both are on both nodes", || {
                let relays = deployment.object("peerrelay", name)?["status"]["relays"].clone();
                ensure!(relays == "2/2", "relays of {name}: {relays}");
                Ok(())
            })?;
            deployment.wait_ready(name)?;
        }
        let seen = answered(deployment)?;
        stored_port(deployment)?;
        Ok(seen)
    });
    deployment.delete(OTHER)?;
    deployment.delete(EDGE)?;
    seen
}

/// With one port and one relay each, the two are on different nodes; a third finds none.
fn apart(deployment: &Deployment<'_>, one: &dyn Fn(u16) -> Value) -> Result<()> {
    deployment.apply(EDGE, &one(40_000))?;
    deployment.wait_ready(EDGE)?;
    deployment.apply(OTHER, &one(40_000))?;
    deployment.wait_ready(OTHER)?;
    let nodes = |name: &str| -> Result<Vec<String>> {
        let pods = deployment.list("pods", name)?;
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        Ok(pods.iter().filter_map(node).collect())
    };
    let (ours, theirs) = (nodes(EDGE)?, nodes(OTHER)?);
    ensure!(
        ours.len() == 1 && theirs.len() == 1 && ours != theirs,
        "relays on {ours:?} and {theirs:?}"
    );
    deployment.delete(OTHER)?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.eventually("the first has both nodes", || {
        let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
        ensure!(relays == "2/2", "relays: {relays}");
        Ok(())
    })?;
    deployment.apply(OTHER, &one(40_000))?;
    deployment.soon("the status names the owner of the port", || {
        let status = deployment.object("peerrelay", OTHER)?["status"].clone();
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
    deployment.delete(EDGE)?;
    deployment.wait_ready(OTHER)?;
    deployment.delete(OTHER)
}

/// Earlier versions stored 9440 in every PeerRelay: the message says what to remove.
fn stored_port(deployment: &Deployment<'_>) -> Result<()> {
    let stored = |port: u16| json!({"port": port, "monitoring": {"port": 9_440}});
    deployment.apply(EDGE, &stored(40_000))?;
    deployment.apply(OTHER, &stored(40_300))?;
    deployment.soon("the status names the port and the field", || {
        let is = deployment.condition(OTHER, "Stalled")?;
        let said = message(&deployment.object("peerrelay", OTHER)?, "Stalled");
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
    deployment.rig.kubectl([
        "patch",
        "peerrelay",
        OTHER,
        "-n",
        NAMESPACE,
        "--type=json",
        "-p",
        patch,
    ])?;
    deployment.wait_ready(OTHER)
}

/// Fails if a probe that reaches the other relay counts as an answer.
fn answered(deployment: &Deployment<'_>) -> Result<String> {
    let node = deployment.rig.nodes.first().context("no node")?;
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

fn kinds(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let seen = made(deployment)
        .and_then(|()| none_there(deployment))
        .and_then(|()| rolled_out(deployment));
    deployment.delete(EDGE)?;
    for name in MADE {
        deployment.remove_node(name)?;
    }
    seen
}

fn made(deployment: &Deployment<'_>) -> Result<()> {
    deployment.add_node(MADE[0], &json!({"kubernetes.io/os": "windows"}))?;
    deployment.add_node(MADE[1], &json!({"kubernetes.io/arch": "s390x"}))?;
    deployment.add_node(MADE[2], &json!({"type": "virtual-kubelet"}))
}

/// With and without a number, and although everything is tolerated.
fn none_there(deployment: &Deployment<'_>) -> Result<()> {
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
        deployment.apply(EDGE, &tolerant(most))?;
        deployment.eventually("two relays on two nodes", || {
            let status = deployment.object("peerrelay", EDGE)?["status"].clone();
            let generation =
                deployment.object("peerrelay", EDGE)?["metadata"]["generation"].clone();
            let reported = (
                status["relays"].clone(),
                status["regions"][0]["nodes"].clone(),
            );
            ensure!(
                reported == (json!("2/2"), json!(2)) && status["observedGeneration"] == generation,
                "relays and nodes: {reported:?}"
            );
            Ok(())
        })?;
        deployment.wait_ready(EDGE)?;
        let pods = deployment.list("pods", EDGE)?;
        ensure!(pods.len() == 2, "{} pods", pods.len());
    }
    deployment.delete(EDGE)
}

/// A node that never answers has a relay that never starts; the others are replaced all the same.
fn rolled_out(deployment: &Deployment<'_>) -> Result<String> {
    deployment.add_node(MADE[3], &json!({}))?;
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
    deployment.apply(EDGE, &three("1"))?;
    let in_round = |round: &'static str| {
        move || {
            let pods = deployment.list("pods", EDGE)?;
            let alive = pods
                .iter()
                .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            let there = alive.filter(|pod| {
                pod["metadata"]["annotations"]["example.net/round"] == *round
                    && pod["spec"]["nodeName"] != MADE[3]
                    && ready(pod)
            });
            ensure!(there.count() == 2, "not both relays are in round {round}");
            let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
            ensure!(relays == "2/3", "relays: {relays}");
            Ok(())
        }
    };
    deployment.eventually("two of three relays are ready", in_round("1"))?;
    let before = running(deployment)?;
    let start = std::time::Instant::now();
    deployment.apply(EDGE, &three("2"))?;
    REPLACED.until("two of three relays are replaced", in_round("2"))?;
    let took = start.elapsed().as_secs();
    let after = running(deployment)?;
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
