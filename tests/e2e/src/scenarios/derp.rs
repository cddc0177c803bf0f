//! Ways to control and DERP that work half.

use anyhow::{Result, bail, ensure};
use rig::{
    deployment::Deployment,
    tailnet::{DERP_REGIONS, NodeStatus, PROXY},
    wait::Wait,
};
use serde_json::json;

use super::{EDGE, Scenario, relayed, reset};

/// Wait until relays have left a home region that sends nothing: they ping it, and give it 40 s.
const LEFT: Wait = Wait::new(45, 60);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "relays whose home DERP server stalls have another within 60 s, and give out new sessions",
            run: stalled,
        },
        Scenario {
            name: "relays reach control and DERP through an HTTP proxy where there is no other way, and \
                   report that they cannot without it",
            run: proxied,
        },
    ]
}

fn proxied(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.rig.tailnet.require_proxy(true)?;
    deployment.apply(EDGE, &with_proxy("http://10.90.0.1:3128"))?;
    deployment.eventually("the PeerRelay reports the refused proxy", || {
        let relay = deployment.object("peerrelay", EDGE)?;
        let conditions = relay["status"]["conditions"].to_string();
        ensure!(conditions.contains("407"), "it reports {conditions}");
        Ok(())
    })?;
    deployment.apply(EDGE, &with_proxy(PROXY))?;
    deployment.wait_ready(EDGE)?;
    let path = relayed(deployment)?;
    deployment.rig.tailnet.require_proxy(false)?;
    reset(deployment)?;
    Ok(format!("refused without credentials, then {path}"))
}

/// A PeerRelay whose relays have this proxy in their environment.
fn with_proxy(url: &str) -> serde_json::Value {
    let relay = json!({"name": "relay", "env": [{"name": "HTTPS_PROXY", "value": url}]});
    json!({"template": {"podOverrides": {"containers": [relay]}}})
}

fn stalled(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let homes: Vec<_> = relays(deployment)?.iter().map(|r| r.home_derp).collect();
    let stalled = *homes.first().unwrap_or(&0);
    let works = DERP_REGIONS.into_iter().find(|region| *region != stalled);
    let works = works.unwrap_or_default();
    clients_prefer(deployment, works)?;
    tailnet.stall_derp(stalled, true)?;
    let took = LEFT.until("relays have another home region", || {
        for relay in relays(deployment)? {
            let (name, home) = (relay.name, relay.home_derp);
            ensure!(home == works, "the home region of {name} is {home}");
        }
        Ok(())
    })?;
    deployment.wait_ready(EDGE)?;
    // A client that restarts has no session.
    let c1 = deployment.client("c1")?;
    c1.stop()?;
    c1.start()?;
    clients_prefer(deployment, works)?;
    let path = relayed(deployment)?;
    tailnet.stall_derp(stalled, false)?;
    reset(deployment)?;
    Ok(format!(
        "home regions {homes:?}, {stalled} stalled: all left it after {:.1} s; then {path}",
        took.as_secs_f64()
    ))
}

fn relays(deployment: &Deployment<'_>) -> Result<Vec<NodeStatus>> {
    let mut nodes = deployment.rig.tailnet.nodes()?;
    nodes.retain(|node| node.peer_relay && node.streaming && node.name.starts_with(EDGE));
    ensure!(!nodes.is_empty(), "no relay is in the tailnet");
    Ok(nodes)
}

/// Moves the clients to this home region.
fn clients_prefer(deployment: &Deployment<'_>, region: u32) -> Result<()> {
    let names = ["c1", "c2"];
    for name in names {
        let region = region.to_string();
        let client = deployment.client(name)?;
        client.tailscale(["debug", "force-prefer-derp", &region])?;
    }
    deployment.eventually("clients have the home region that they prefer", || {
        for node in deployment.rig.tailnet.nodes()? {
            let (name, home) = (&*node.name, node.home_derp);
            if names.contains(&name) && home != region {
                // An idle client does not measure again by itself if its one measurement was lost.
                deployment.client(name)?.tailscale(["debug", "restun"])?;
                bail!("the home region of {name} is {home}");
            }
        }
        Ok(())
    })
}
