//! Order of paths: direct, then relay, then DERP.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, Route},
    names::NAMESPACE,
    wait::Wait,
};
use serde_json::json;

use super::{
    EDGE, FALLBACK, SEARCH, Scenario, THIRTY, carried::transfer, held::Held, is_relay, relayed,
    reset, restarts::longest,
};

/// Bytes through the tunnel.
const BULK: u64 = 100_000_000;
const PORT: u16 = 7_000;
pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an applied PeerRelay takes a path from DERP to a relay within 30 s",
            run: first,
        },
        Scenario {
            name: "100 MB over TCP arrive unchanged through the relay",
            run: bulk,
        },
        Scenario {
            name: "clients use a direct path while the firewall allows it, and a relay \
                   again afterwards",
            run: direct,
        },
        Scenario {
            name: "without relays TCP survives on DERP, and the same relays come back",
            run: gone,
        },
    ]
}

fn first(deployment: &Deployment<'_>) -> Result<String> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.delete(EDGE)?;
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)?;
    let start = Instant::now();
    deployment.apply(EDGE, &json!({}))?;
    let created = Wait::STATUS.until("the DaemonSet exists", || {
        deployment
            .object("daemonset", &format!("{EDGE}-office"))
            .map(drop)
    })?;
    let (route, _) = deployment.wait_route(c1, c2, is_relay, THIRTY)?;
    let took = start.elapsed();
    ensure!(took < THIRTY.longest(), "it took {} s", took.as_secs());
    deployment.wait_ready(EDGE)?;

    let status = c1.tailscale(["status"])?;
    let line = status
        .lines()
        .find(|line| line.contains(" c2 "))
        .context("c2 is not in status")?;
    ensure!(
        line.contains("active; peer-relay ") && line.contains(":40000:vni:"),
        "status says: {line}"
    );
    let nodes = deployment.rig.tailnet.nodes()?;
    let relays: Vec<_> = nodes.iter().filter(|node| node.peer_relay).collect();
    ensure!(
        relays.len() == 2,
        "{} relays are in the tailnet",
        relays.len()
    );
    for client in [c1, c2] {
        let servers = client.debug_peer_relay_servers()?;
        for relay in &relays {
            ensure!(
                servers.contains(&relay.addresses[0]),
                "{} is not in {servers}",
                relay.name
            );
        }
    }
    let servers = deployment.client("c3")?.debug_peer_relay_servers()?;
    ensure!(
        servers.trim() == "[]",
        "c3 without the grant knows {servers}"
    );
    Ok(format!(
        "DaemonSet seen {:.2} s, {route} {:.1} s after kubectl apply",
        created.as_secs_f64(),
        took.as_secs_f64()
    ))
}

fn bulk(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    let ours = "peerrelay_forwarded_bytes_total";
    let upstreams = "tailscaled_peer_relay_forwarded_bytes_total";
    let before = (deployment.metric(ours)?, deployment.metric(upstreams)?);
    let start = Instant::now();
    let sent = transfer(deployment, BULK)?;
    let seconds = start.elapsed().as_secs_f64();
    let (ours, upstreams) = (
        deployment.metric(ours)? - before.0,
        deployment.metric(upstreams)? - before.1,
    );
    ensure!(
        upstreams >= BULK as f64 && (upstreams - ours).abs() < ours / 10.0,
        "upstream's metric counts {upstreams} bytes, ours {ours}"
    );
    ensure!(is_relay(&deployment.route(c1, c2)?), "the path changed");
    Ok(format!("{sent} in {seconds:.1} s"))
}

fn direct(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    deployment.rig.network.block_clients(false)?;
    let (_, there) = deployment.wait_route(c1, c2, |route| *route == Route::Direct, SEARCH)?;
    deployment.rig.network.block_clients(true)?;
    let (_, back) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    Ok(format!(
        "direct after {} s, relayed again after {} s",
        there.as_secs(),
        back.as_secs()
    ))
}

fn gone(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    // In the kernel, forwarding would go on for 200 s: each relay has a configuration, and expects a successor.
    deployment.apply(EDGE, &json!({"dataPath": "Socket"}))?;
    deployment.wait_ready(EDGE)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    let devices = relays(deployment)?;
    let held = Held::open(deployment, PORT)?;

    // Relays that the operator removes are withdrawn first. These end without notice.
    deployment.apply(EDGE, &json!({"dataPath": "Socket", "paused": true}))?;
    deployment.soon("the operator leaves everything as it is", || {
        let ready = deployment.condition(EDGE, "Ready")?;
        ensure!(ready == "Unknown/Paused", "Ready is '{ready}'");
        Ok(())
    })?;
    let label = format!("peerrelay.dev/peer-relay={EDGE}");
    deployment
        .rig
        .kubectl(["delete", "daemonsets", "-n", NAMESPACE, "-l", &label])?;
    deployment.eventually("no relay runs", || {
        let pods = deployment.list("pods", EDGE)?;
        ensure!(pods.is_empty(), "{} relays run", pods.len());
        Ok(())
    })?;
    let (_, away) = deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
    // Longer than a path is trusted, so that data really went over DERP.
    thread::sleep(Duration::from_secs(5));

    deployment.apply(EDGE, &json!({}))?;
    let (_, back) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    let trips = held.finish().context("TCP did not survive")?;
    ensure!(longest(&trips)? < FALLBACK, "TCP stalled: {trips}");
    ensure!(
        relays(deployment)? == devices,
        "the relays came back as other devices"
    );
    Ok(format!(
        "DERP after {} s, relayed again after {} s, on one connection {trips}",
        away.as_secs(),
        back.as_secs()
    ))
}

/// Name and key of each relay in the tailnet.
fn relays(deployment: &Deployment<'_>) -> Result<Vec<(String, String)>> {
    let nodes = deployment.rig.tailnet.nodes()?;
    let relays = nodes.into_iter().filter(|node| node.peer_relay);
    let mut devices: Vec<_> = relays.map(|node| (node.name, node.key)).collect();
    devices.sort();
    Ok(devices)
}
