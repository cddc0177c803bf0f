//! Outages of relays and of the operator, and the alerts that they bring.
//!
//! The rules are as we ship them. An alert is pending until its condition has held for the time that
//! its rule says, minutes that nobody waits for here.

use anyhow::{Context, Result, ensure};
use rig::prometheus::Prometheus;
use rig::world::{OPERATOR_NAMESPACE, World};

use super::EDGE;

/// Alerts of relays that have lost the tailnet.
const RELAYS: [&str; 4] = [
    "PeerRelayUnavailable",
    "PeerRelayNotReady",
    "PeerRelayStalled",
    "PeerRelayNodeNotReady",
];
/// Alerts of an operator that is gone.
const OPERATOR: [&str; 1] = ["PeerRelayOperatorAbsent"];

/// Causes both outages and ends them.
pub(super) fn alarm(world: &World<'_>, prometheus: &Prometheus<'_>) -> Result<String> {
    calm(world, prometheus, &RELAYS)?;
    calm(world, prometheus, &OPERATOR)?;
    let tailnet = &world.rig.tailnet;
    let nodes = tailnet.nodes()?;
    let relays = nodes
        .iter()
        .filter(|node| node.peer_relay && node.streaming);
    let relays: Vec<_> = relays.map(|node| &*node.name).collect();
    ensure!(!relays.is_empty(), "no relay is in the tailnet");
    let expire = |set| relays.iter().try_for_each(|name| tailnet.expire(name, set));
    let alarmed = expire(true).and_then(|()| self::alarmed(world, prometheus, &RELAYS));
    expire(false)?;
    alarmed.context("relays whose node keys have expired")?;
    world.wait_ready(EDGE)?;
    calm(world, prometheus, &RELAYS)?;

    let alarmed = scale(world, 0).and_then(|()| self::alarmed(world, prometheus, &OPERATOR));
    scale(world, 2)?;
    alarmed.context("without an operator")?;
    calm(world, prometheus, &OPERATOR)?;
    Ok(format!(
        "{} alerts came and went",
        RELAYS.len() + OPERATOR.len()
    ))
}

fn alarmed(world: &World<'_>, prometheus: &Prometheus<'_>, alerts: &[&str]) -> Result<()> {
    world.eventually("the alerts come", || {
        let there = prometheus.alarmed()?;
        let missing = alerts.iter().find(|alert| !there.contains(**alert));
        ensure!(missing.is_none(), "{missing:?} is not among {there:?}");
        Ok(())
    })
}

fn calm(world: &World<'_>, prometheus: &Prometheus<'_>, alerts: &[&str]) -> Result<()> {
    world.eventually("the alerts are not there", || {
        let there = prometheus.alarmed()?;
        let left = alerts.iter().find(|alert| there.contains(**alert));
        ensure!(left.is_none(), "{left:?} is there");
        Ok(())
    })
}

/// Lets so many operators run, and waits until they do.
fn scale(world: &World<'_>, replicas: u8) -> Result<()> {
    let deployment = "deployment/peerrelay-operator";
    let replicas = format!("--replicas={replicas}");
    for words in [
        ["scale", deployment, &*replicas],
        ["rollout", "status", deployment],
    ] {
        let of = ["-n", OPERATOR_NAMESPACE, "--timeout=60s"];
        world.rig.kubectl(words.into_iter().chain(of))?;
    }
    Ok(())
}
