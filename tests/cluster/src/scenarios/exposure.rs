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
        world.eventually("each relay advertises its own node", || {
            let reports = reports(world)?;
            ensure!(reports.len() == 2, "{} relays report", reports.len());
            for node in reports {
                let on = node["spec"]["nodeName"].as_str().unwrap_or_default();
                let own = world.rig.nodes.iter().find(|n| n.machine.name == on);
                let own = own.context("a relay is on no node of the rig")?.machine;
                let wanted = [format!("{}:{port}", own.v4), format!("[{}]:{port}", own.v6)];
                let told = endpoints(&node);
                ensure!(told == wanted, "{on} advertises {told:?}, not {wanted:?}");
            }
            Ok(())
        })?;
        through(world, &[format!(":{port}:vni:")])
    });
    world.delete(EDGE)?;
    seen
}

/// What the relays report of themselves.
fn reports(world: &World<'_>) -> Result<Vec<Value>> {
    let text = world
        .rig
        .kubectl(["get", "relaynodes", "-n", NAMESPACE, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let all = list["items"].as_array().cloned().unwrap_or_default();
    Ok(all
        .into_iter()
        .filter(|node| node["spec"]["peerRelay"] == EDGE)
        .collect())
}

/// What a relay advertises, IPv4 first.
fn endpoints(node: &Value) -> Vec<String> {
    let all = node["status"]["endpoints"].as_array().into_iter().flatten();
    let mut all: Vec<_> = all
        .map(|e| e["address"].as_str().unwrap_or_default().to_owned())
        .collect();
    all.sort_unstable();
    all
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

/// Both clients talk through a relay whose address contains one of `parts`, as `tailscale status`
/// says.
fn through(world: &World<'_>, parts: &[String]) -> Result<String> {
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    let has = |text: &str| parts.iter().any(|part| text.contains(part));
    let wanted = |route: &Route| is_relay(route) && has(&route.to_string());
    let (route, took) = world.wait_route(c1, c2, wanted, MINUTE)?;
    let status = c1.tailscale(["status"])?;
    ensure!(
        status.contains("active; peer-relay") && has(&status),
        "tailscale status shows no such path:\n{status}"
    );
    Ok(format!("{route} after {} s", took.as_secs()))
}
