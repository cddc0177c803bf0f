//! Links with a small MTU, a second uplink, and a link that flaps.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use rig::{
    deployment::{Deployment, Route},
    net::{Family, UPLINK_V4},
    process::wait_until,
};
use serde_json::{Value, json};

use super::{
    EDGE, SEARCH, Scenario,
    carried::{send, transfer},
    endpoints::with_endpoints,
    reset,
    underlay::relayed_without,
};

/// The longest time until a transfer has begun.
const BEGUN: Duration = Duration::from_secs(10);

/// Bytes through the tunnel.
const BULK: u64 = 100_000_000;
/// The MTU of some providers' links: enough for WireGuard's longest packets over IPv4, and too little
/// for those over IPv6.
const NARROW: u16 = 1_360;
/// The time without an uplink, longer than clients trust a path.
const AWAY: Duration = Duration::from_secs(8);
const FORWARDED: &str = "peerrelay_forwarded_bytes_total";
const BY_KERNEL: &str = "peerrelay_forwarded_bytes_total{data_path=\"kernel\"";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "100 MB arrive unchanged over a link with MTU 1360: by the kernel over IPv4, and \
                   in fragments over IPv6",
            run: narrow,
        },
        Scenario {
            name: "a relay on a node's second uplink sends through that uplink only, and a \
                   transfer survives a flap of the link",
            run: uplinks,
        },
    ]
}

fn narrow(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let shown = over_narrow_link(deployment);
    deployment.rig.network.restore_links()?;
    let said = shown?;
    reset(deployment)?;
    Ok(said)
}

fn over_narrow_link(deployment: &Deployment<'_>) -> Result<String> {
    let network = &deployment.rig.network;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    network.narrow(&c2.machine, NARROW)?;
    let mut said = Vec::new();
    for (cut, metric) in [(Family::V6, BY_KERNEL), (Family::V4, FORWARDED)] {
        let is_wanted = relayed_without(deployment, cut)?;
        let before = deployment.metric(metric)?;
        let sent = transfer(deployment, BULK)?;
        let counted = deployment.metric(metric)? - before;
        ensure!(counted > BULK as f64, "{metric}: {counted} bytes only");
        let route = deployment.route(c1, c2)?;
        ensure!(is_wanted(&route), "the path has become {route}");
        said.push(format!("{sent} by {route}"));
    }
    Ok(said.join(", "))
}

fn uplinks(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let shown = deployment
        .rig
        .network
        .add_uplink()
        .and_then(|()| second_uplink(deployment));
    deployment.rig.network.restore_links()?;
    let said = shown?;
    reset(deployment)?;
    Ok(said)
}

fn second_uplink(deployment: &Deployment<'_>) -> Result<String> {
    let network = &deployment.rig.network;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let endpoint = format!("{UPLINK_V4}:40000");
    let mut spec = with_endpoints(&json!({"advertise": "StaticOnly", "static": [endpoint]}));
    spec["regions"][0]["placement"] =
        json!({"nodeSelector": {"kubernetes.io/hostname": deployment.rig.nodes[0].machine.name}});
    deployment.apply(EDGE, &spec)?;
    deployment.wait_ready(EDGE)?;
    for client in [c1, c2] {
        // A restart makes the clients forget other addresses.
        network.cut(client.machine.name, Family::V6)?;
        client.stop()?;
        client.start()?;
    }
    let through = |route: &Route| matches!(route, Route::Relay(to) if to.starts_with(&endpoint));
    for (from, to) in [(c1, c2), (c2, c1)] {
        deployment.wait_route(from, to, through, SEARCH)?;
    }
    let pods = containers(deployment)?;
    let sent = by_kernel(deployment)?;

    let start = counted(deployment, FORWARDED)?;
    let resumed = thread::scope(|scope| {
        let sent = scope.spawn(|| send(deployment, BULK));
        let flapped = (|| {
            wait_until(
                BEGUN,
                || true,
                || {
                    let so_far = counted(deployment, FORWARDED)? - start;
                    ensure!(so_far > 1e6, "{so_far} bytes were forwarded");
                    Ok(())
                },
            )
            .context("the transfer does not begin")?;
            network.set_uplink(false)?;
            ensure!(
                !sent.is_finished(),
                "all was sent before the link went down"
            );
            thread::sleep(AWAY);
            network.set_uplink(true)
        })();
        let sent = sent.join().map_err(|_| anyhow!("the sender panicked"))?;
        flapped.and(sent)
    })?;
    let (_, back) = deployment.wait_route(c1, c2, through, SEARCH)?;
    by_kernel(deployment).context("after the flap")?;
    ensure!(containers(deployment)? == pods, "the relay was replaced");
    let strays = network.strays()?;
    ensure!(strays == 0, "{strays} packets left by the wrong uplink");
    Ok(format!(
        "{sent} by {endpoint}, {resumed} while it was away for {} s, back {:.1} s after the transfer",
        AWAY.as_secs(),
        back.as_secs_f64()
    ))
}

/// Sends through the tunnel, and the only relay's kernel forwards it.
fn by_kernel(deployment: &Deployment<'_>) -> Result<String> {
    let before = counted(deployment, BY_KERNEL)?;
    let sent = transfer(deployment, BULK)?;
    let bytes = counted(deployment, BY_KERNEL)? - before;
    ensure!(bytes > BULK as f64, "{BY_KERNEL}: {bytes} bytes only");
    Ok(sent)
}

/// Sum of the metrics of the first node's relay that begin with `prefix`.
fn counted(deployment: &Deployment<'_>, prefix: &str) -> Result<f64> {
    let samples = deployment.metrics(&deployment.rig.nodes[0])?;
    let matching = samples.iter().filter(|(name, _)| name.starts_with(prefix));
    Ok(matching.map(|(_, value)| value).sum())
}

/// The containers that run, by their ids.
pub(super) fn containers(deployment: &Deployment<'_>) -> Result<Vec<Value>> {
    let pods = deployment.list("pods", EDGE)?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    Ok(pods.iter().map(id).collect())
}
