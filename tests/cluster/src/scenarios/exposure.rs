//! Ways to relays other than their nodes' own network.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{EDGE, MINUTE, Scenario, is_relay, reset};
use crate::world::{NAMESPACE, Route, World};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a NodePort leads clients to relays that pass Pod Security restricted",
        run: node_port,
    }]
}

fn node_port(world: &World<'_>) -> Result<String> {
    reset(world)?;
    world.delete(EDGE)?;
    let behind = json!({"regions": [{
        "name": "office", "clients": ["tag:office"], "exposure": {"type": "NodePort"},
    }]});
    let seen = restricted(world, || {
        world.apply(EDGE, &behind)?;
        world.wait_ready(EDGE)?;
        let service = world.object("service", &format!("{EDGE}-office"))?;
        let port = &service["spec"]["ports"][0]["nodePort"];
        for node in world.list("relaynodes", EDGE)? {
            let on = node["spec"]["nodeName"].as_str().unwrap_or_default();
            let node = &node["status"]["endpoints"];
            let own = world.rig.nodes.iter().find(|n| n.machine.name == on);
            let own = own.context("a relay is on no node of the rig")?.machine;
            let wanted = json!([format!("{}:{port}", own.v4), format!("[{}]:{port}", own.v6)]);
            let told: Value = node
                .as_array()
                .into_iter()
                .flatten()
                .map(|e| e["address"].clone())
                .collect();
            ensure!(told == wanted, "{on} advertises {told}, not {wanted}");
        }
        through(world, &format!(":{port}:vni:"))
    });
    world.delete(EDGE)?;
    seen
}

/// Runs `inside` while the relays' namespace enforces Pod Security `restricted`.
fn restricted<T>(world: &World<'_>, inside: impl FnOnce() -> Result<T>) -> Result<T> {
    let enforce = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        let words = ["label", "namespace", NAMESPACE, "--overwrite", &label];
        world.rig.kubectl(words).map(drop)
    };
    enforce("restricted")?;
    let result = inside();
    enforce("privileged")?;
    result
}

/// Both clients talk through a relay whose address contains `part`, as `tailscale status` says.
fn through(world: &World<'_>, part: &str) -> Result<String> {
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    let wanted = |route: &Route| is_relay(route) && route.to_string().contains(part);
    let (route, took) = world.wait_route(c1, c2, wanted, MINUTE)?;
    let status = c1.tailscale(["status"])?;
    ensure!(
        status.contains("active; peer-relay") && status.contains(part),
        "tailscale status shows no such path:\n{status}"
    );
    Ok(format!("{route} after {} s", took.as_secs()))
}
