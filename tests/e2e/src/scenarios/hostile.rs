//! What strangers may try.

use anyhow::{Context, Result, ensure};
use rig::world::World;
use serde_json::Value;

use super::{EDGE, Scenario, relayed, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a stranger's datagrams get no answer and are counted by reason",
        run: strangers,
    }]
}

fn strangers(world: &World<'_>) -> Result<String> {
    reset(world)?;
    relayed(world)?;
    let c3 = world.client("c3")?;
    let reasons = ["malformed", "unknown_vni", "unsolicited_stun"];
    let drops =
        |reason: &str| world.metric(&format!("peerrelay_drops_total{{reason=\"{reason}\"}}"));
    let before = reasons.map(drops);
    let restarts = restarts(world)?;
    let mut report = String::new();
    for node in &world.rig.nodes {
        for ip in [
            node.machine.v4.to_string(),
            format!("[{}]", node.machine.v6),
        ] {
            let said = world
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
    ensure!(restarts == self::restarts(world)?, "a relay restarted");
    relayed(world)?;
    Ok(report)
}

fn restarts(world: &World<'_>) -> Result<Vec<(String, Value)>> {
    let pods = world.list("pods", EDGE)?;
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
