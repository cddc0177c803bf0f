//! Clients that restart, move or are refused while they use a relay.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use rig::{
    deployment::{Deployment, Route},
    tailnet::{CLIENT_PROXY, Client},
};
use serde_json::{Value, json};

use super::{
    EDGE, SEARCH, Scenario,
    carried::{Counters, STRAY_PERCENT},
    is_relay, relayed, reset,
};

const PORT: u16 = 7_020;
/// Bytes through the tunnel.
const BULK: u64 = 20_000_000;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a client that restarts is relayed again",
            run: restart,
        },
        Scenario {
            name: "a client behind a NAT that gives it a new port is relayed again",
            run: renumber,
        },
        Scenario {
            name: "20 MB arrive unchanged between clients without TUN devices, and between one of them and \
                   one with",
            run: userspace,
        },
        Scenario {
            name: "a client without the grant gets no session, and the relay counts why",
            run: no_grant,
        },
        Scenario {
            name: "clients whose home is another DERP region than the relay's are answered there",
            run: other_region,
        },
    ]
}

fn restart(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    let sessions = deployment.metric("peerrelay_allocations_total{session=\"new\"}")?;
    c2.stop()?;
    c2.start()?;
    let (_, took) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    let now = deployment.metric("peerrelay_allocations_total{session=\"new\"}")?;
    ensure!(
        now > sessions,
        "the new disco key has no session of its own"
    );
    Ok(format!("after {} s", took.as_secs()))
}

fn renumber(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    deployment.rig.network.renumber("c1")?;
    let (_, took) = deployment.wait_route(c2, c1, is_relay, SEARCH)?;
    Ok(format!("after {} s", took.as_secs()))
}

fn userspace(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (c1_without, c2_without) = (c1.without_tun(), c2.without_tun());
    let mut said = Vec::new();
    let shown = [&c2_without, c2].into_iter().try_for_each(|receiver| {
        for (client, with) in [(&c1_without, c1), (receiver, c2)] {
            with.stop()?;
            client.start()?;
        }
        said.push(through_proxy(deployment, &c1_without, receiver)?);
        Ok(())
    });
    for client in [c1, c2] {
        client.stop()?;
        client.start()?;
    }
    shown.map(|()| said.join("; "))
}

/// Sends through a relay and the proxy of a client without a TUN device.
fn through_proxy(deployment: &Deployment<'_>, from: &Client, to: &Client) -> Result<String> {
    deployment.wait_route(to, from, is_relay, SEARCH)?;
    deployment.wait_route(from, to, is_relay, SEARCH)?;
    let server = deployment.probe(to, &["serve", &PORT.to_string()])?;
    let address = SocketAddr::new(to.addresses()?[0].parse()?, PORT).to_string();
    let words = ["send", &address, &BULK.to_string(), "--proxy", CLIENT_PROXY];
    let before = Counters::read(deployment)?;
    let sent = deployment.probe(from, &words)?.finish()?;
    let carried = Counters::read(deployment)?.since(&before);
    drop(server);
    let ways = carried.through_relays(BULK, STRAY_PERCENT)?;
    Ok(format!("{sent}: {ways}"))
}

/// The control server announces relays to c3 that have no grant for c3, as happens while a policy spreads.
fn no_grant(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c3) = (deployment.client("c1")?, deployment.client("c3")?);
    let policy = r#"{
      "tagOwners": {"tag:office": [], "tag:other": [], "tag:relay-office": []},
      "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
    }"#;
    deployment.rig.tailnet.write_policy(policy)?;
    deployment.soon("relays have no granted peers", || {
        let granted = deployment.metric("peerrelay_granted_peers")?;
        ensure!(granted == 0.0, "{granted} peers are granted");
        Ok(())
    })?;
    let refused = deployment.metric("peerrelay_drops_total{reason=\"no_grant\"}")?;
    let allocated = deployment.metric("peerrelay_allocations_total")?;
    deployment
        .rig
        .tailnet
        .set_attribute("c3", "rig-misled", true)?;
    let counted = deployment.eventually("a refusal is counted", || {
        // A ping makes the client look for paths.
        deployment.route(c3, c1)?;
        let now = deployment.metric("peerrelay_drops_total{reason=\"no_grant\"}")?;
        ensure!(now > refused, "no_grant stays at {now}");
        Ok(())
    });
    deployment
        .rig
        .tailnet
        .set_attribute("c3", "rig-misled", false)?;
    counted?;
    let now = deployment.metric("peerrelay_allocations_total")?;
    ensure!(now == allocated, "a session was allocated");
    ensure!(!is_relay(&deployment.route(c3, c1)?), "c3 is relayed");
    Ok("no_grant counted, nothing allocated".into())
}

/// With one relay, both clients move to a DERP region that is not the relay's home, and search for a path again.
fn other_region(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let one = json!({"regions": [{
        "name": "office", "clients": ["tag:office"],
        "placement": {"nodeSelector": {"kubernetes.io/hostname": "n1"}},
    }]});
    // A relay chooses its home region at each start.
    for _ in 0..5 {
        let theirs = home(c1.status()?)?;
        for client in [c1, c2] {
            client.tailscale(["debug", "force-prefer-derp", &theirs.to_string()])?;
        }
        deployment.delete(EDGE)?;
        deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
        deployment.apply(EDGE, &one)?;
        deployment.wait_ready(EDGE)?;
        let nodes = deployment.rig.tailnet.nodes()?;
        let relay = nodes.iter().find(|node| node.peer_relay && node.streaming);
        let ours = relay.context("no relay is in the tailnet")?.home_derp;
        if ours == theirs {
            let other = 3 - theirs;
            for client in [c1, c2] {
                client.tailscale(["debug", "force-prefer-derp", &other.to_string()])?;
            }
            deployment.eventually("clients have moved", || {
                for client in [c1, c2] {
                    let home = home(client.status()?)?;
                    ensure!(home == other, "home is region {home}");
                }
                Ok(())
            })?;
            continue;
        }
        let (route, _) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;
        for client in [c1, c2] {
            client.tailscale(["debug", "force-prefer-derp", "0"])?;
        }
        return Ok(format!(
            "relay at home in region {ours}, clients in {theirs}: {route}"
        ));
    }
    bail!("relay and clients always chose the same region")
}

/// Home DERP region of a client: the regions of the rig are rig1 and rig2.
fn home(status: Value) -> Result<u32> {
    let code = status["Self"]["Relay"].as_str().unwrap_or_default();
    let number = code
        .strip_prefix("rig")
        .with_context(|| format!("home is '{code}'"))?;
    Ok(number.parse()?)
}
