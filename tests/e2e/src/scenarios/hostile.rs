//! Datagrams that belong to no session.

use anyhow::{Context, Result, ensure};
use rig::deployment::Deployment;
use serde_json::Value;

use super::{EDGE, Scenario, relayed, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "datagrams of unknown senders get no answer, and are counted by reason",
        run: strangers,
    }]
}

fn strangers(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    relayed(deployment)?;
    let c3 = deployment.client("c3")?;
    let reasons = ["malformed", "unknown_vni", "unsolicited_stun"];
    let drops =
        |reason: &str| deployment.metric(&format!("peerrelay_drops_total{{reason=\"{reason}\"}}"));
    let before = reasons.map(drops);
    let restarts = restarts(deployment)?;
    let mut report = String::new();
    for node in &deployment.rig.nodes {
        for ip in [
            node.machine.v4.to_string(),
            format!("[{}]", node.machine.v6),
        ] {
            let said = deployment
                .probe(c3, &["hostile", &format!("{ip}:40000")])?
                .finish()?;
            ensure!(said.ends_with(" 0 answered"), "{ip}: {said}");
            report = said;
        }
    }
    for (reason, before) in reasons.into_iter().zip(before) {
        let more = drops(reason)? - before?;
        ensure!(more > 0.0, "{reason} was not counted");
    }
    ensure!(restarts == self::restarts(deployment)?, "a relay restarted");
    relayed(deployment)?;
    Ok(report)
}

fn restarts(deployment: &Deployment<'_>) -> Result<Vec<(String, Value)>> {
    let pods = deployment.list("pods", EDGE)?;
    let restarts = pods.iter().map(|pod| {
        let name = pod["metadata"]["name"]
            .as_str()
            .context("a pod without a name")?;
        Ok((
            name.to_owned(),
            pod["status"]["containerStatuses"][0]["restartCount"].clone(),
        ))
    });
    restarts.collect()
}
