//! Packets go through the kernel where it can be had, and status says which way they go.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{EDGE, MINUTE, Scenario, relayed, reset, underlay::through_ipv4};
use crate::{net::Family, world::World};

/// Bytes through the tunnel.
const BULK: u64 = 100_000_000;
const PORT: u16 = 7_001;
const KERNEL: &str = "peerrelay_forwarded_bytes_total{data_path=\"kernel\"";
const SOCKET: &str = "peerrelay_forwarded_bytes_total{data_path=\"socket\"";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "100 MB between stock clients pass through the kernel path, and status says so",
            run: kernel,
        },
        Scenario {
            name: "with dataPath Socket relays hold no capability and forward all the same",
            run: socket,
        },
    ]
}

fn kernel(world: &World<'_>) -> Result<String> {
    reset(world)?;
    paths_are(world, "Kernel")?;
    // Clients choose a family each, and between the families the sockets forward.
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    for (client, other) in [(c1, c2), (c2, c1)] {
        world.rig.network.cut(client.machine.name, Family::V6)?;
        world.wait_route(client, other, through_ipv4, MINUTE)?;
    }
    let said = transfer(world, KERNEL)?;
    reset(world)?;
    Ok(said)
}

fn socket(world: &World<'_>) -> Result<String> {
    reset(world)?;
    world.apply(EDGE, &json!({"dataPath": "Socket"}))?;
    paths_are(world, "Socket")?;
    world.wait_ready(EDGE)?;
    let set = world.object("daemonset", &format!("{EDGE}-office"))?;
    let security = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    ensure!(
        security["capabilities"] == json!({"drop": ["ALL"]}),
        "the relay's container has {security}"
    );
    // For some seconds the kernel still forwards what the relays before left to it, and what it
    // forwards then is not counted: until all of a transfer is.
    let mut said = String::new();
    world.eventually("sockets forward", || {
        said = transfer(world, SOCKET)?;
        Ok(())
    })?;
    reset(world)?;
    paths_are(world, "Kernel")?;
    Ok(said)
}

/// Waits until every relay reports this path.
fn paths_are(world: &World<'_>, wanted: &str) -> Result<()> {
    world.eventually("relays report their path", || {
        let text = world
            .rig
            .kubectl(["get", "relaynodes", "-n", "relays", "-o", "json"])?;
        let relays: Value = serde_json::from_str(&text)?;
        let relays = relays["items"].as_array().context("no list")?;
        ensure!(!relays.is_empty(), "no relay reports");
        for relay in relays {
            let status = &relay["status"];
            ensure!(
                status["dataPath"] == wanted,
                "a relay says {}, {}: {}",
                status["dataPath"],
                status["dataPathReason"],
                status["dataPathMessage"]
            );
        }
        Ok(())
    })
}

/// Sends through the tunnel; the relays' metric with this prefix counts it.
fn transfer(world: &World<'_>, metric: &str) -> Result<String> {
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    relayed(world)?;
    let before = world.metric(metric)?;
    let server = world.probe(c2, &["serve", &PORT.to_string()])?;
    let to = SocketAddr::new(c2.addresses()?[0].parse()?, PORT).to_string();
    let sent = world
        .probe(c1, &["send", &to, &BULK.to_string()])?
        .finish()?;
    drop(server);
    let counted = world.metric(metric)? - before;
    ensure!(counted > BULK as f64, "{metric}: {counted} bytes only");
    Ok(format!("{sent}, {counted} bytes counted"))
}
