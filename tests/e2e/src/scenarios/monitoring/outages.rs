//! Outages of relays and of the operator, and their alerts.
//!
//! The rules are those of the product. An alert is pending until its condition has held for the time in
//! its rule. That takes minutes, so a pending alert suffices here.

use anyhow::{Context, Result, ensure};
use rig::{deployment::Deployment, names::OPERATOR_NAMESPACE, prometheus::Prometheus};

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
pub(super) fn alerts(deployment: &Deployment<'_>, prometheus: &Prometheus<'_>) -> Result<String> {
    calm(deployment, prometheus, &RELAYS)?;
    calm(deployment, prometheus, &OPERATOR)?;
    let tailnet = &deployment.rig.tailnet;
    let nodes = tailnet.nodes()?;
    let relays = nodes
        .iter()
        .filter(|node| node.peer_relay && node.streaming);
    let relays: Vec<_> = relays.map(|node| &*node.name).collect();
    ensure!(!relays.is_empty(), "no relay is in the tailnet");
    let expire = |set| relays.iter().try_for_each(|name| tailnet.expire(name, set));
    let alerted = expire(true).and_then(|()| self::alerted(deployment, prometheus, &RELAYS));
    expire(false)?;
    alerted.context("relays whose node keys have expired")?;
    deployment.wait_ready(EDGE)?;
    calm(deployment, prometheus, &RELAYS)?;

    let alerted =
        scale(deployment, 0).and_then(|()| self::alerted(deployment, prometheus, &OPERATOR));
    scale(deployment, 2)?;
    alerted.context("without an operator")?;
    calm(deployment, prometheus, &OPERATOR)?;
    Ok(format!(
        "{} alerts came and went",
        RELAYS.len() + OPERATOR.len()
    ))
}

fn alerted(
    deployment: &Deployment<'_>,
    prometheus: &Prometheus<'_>,
    alerts: &[&str],
) -> Result<()> {
    deployment.eventually("the alerts come", || {
        let there = prometheus.pending_alerts()?;
        let missing = alerts.iter().find(|alert| !there.contains(**alert));
        ensure!(missing.is_none(), "{missing:?} is not among {there:?}");
        Ok(())
    })
}

fn calm(deployment: &Deployment<'_>, prometheus: &Prometheus<'_>, alerts: &[&str]) -> Result<()> {
    deployment.eventually("the alerts are not there", || {
        let there = prometheus.pending_alerts()?;
        let left = alerts.iter().find(|alert| there.contains(**alert));
        ensure!(left.is_none(), "{left:?} is there");
        Ok(())
    })
}

/// Sets the number of replicas of the operator, and waits until they run.
fn scale(deployment: &Deployment<'_>, replicas: u8) -> Result<()> {
    let workload = "deployment/peerrelay-operator";
    let replicas = format!("--replicas={replicas}");
    for words in [
        ["scale", workload, &*replicas],
        ["rollout", "status", workload],
    ] {
        let of = ["-n", OPERATOR_NAMESPACE, "--timeout=60s"];
        deployment.rig.kubectl(words.into_iter().chain(of))?;
    }
    Ok(())
}
