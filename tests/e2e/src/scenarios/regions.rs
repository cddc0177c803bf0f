//! Regions: the nodes of their relays, their clients, and the number of relays.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rig::{
    cluster::Node,
    deployment::{Deployment, Route},
    tailnet::Client,
};
use serde_json::{Value, json};

use super::{EDGE, SEARCH, Scenario, is_relay, relayed_by, reset, vacant};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two regions on two nodes: each client is offered its region's relay only",
            run: two_regions,
        },
        Scenario {
            name: "spec.maxRelays limits new relays, and stops no running one",
            run: total,
        },
        Scenario {
            name: "two regions on the same two nodes share spec.maxRelays, also a region \
                   that is added later",
            run: shared,
        },
        Scenario {
            name: "a chosen relay stays through a cordon and moves when its node is deleted",
            run: node_deleted,
        },
    ]
}

const TWO_TAGS: &str = r#"{
  "tagOwners": {
    "tag:office": [], "tag:other": [], "tag:relay-office": [], "tag:relay-lab": [],
  },
  "grants": [
    {"src": ["tag:office", "tag:other"], "dst": ["tag:office", "tag:other"], "ip": ["*"]},
    {"src": ["tag:office"], "dst": ["tag:relay-office"], "app": {"tailscale.com/cap/relay": [{}]}},
    {"src": ["tag:other"], "dst": ["tag:relay-lab"], "app": {"tailscale.com/cap/relay": [{}]}},
  ],
}"#;

fn two_regions(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.rig.tailnet.write_policy(TWO_TAGS)?;
    let on = |name: &str, clients: &str, node: &str| {
        json!({
            "name": name, "clients": [clients],
            "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
        })
    };
    let regions = [
        on("office", "tag:office", "n1"),
        on("lab", "tag:other", "n2"),
    ];
    deployment.apply(EDGE, &json!({"regions": regions}))?;
    let mut offered = Vec::new();
    for (client, region, other) in [
        ("c1", "office", "lab"),
        ("c2", "office", "lab"),
        ("c3", "lab", "office"),
    ] {
        let client = deployment.client(client)?;
        // Devices of earlier relays are still in the tailnet, under the tags they had.
        deployment.eventually("the client is offered its region's relay only", || {
            let (wanted, unwanted) = (relay_of(deployment, region)?, relay_of(deployment, other)?);
            let servers = servers(client)?;
            ensure!(
                servers.contains(&wanted) && !servers.contains(&unwanted),
                "{} is offered {servers:?}, not {wanted} without {unwanted}",
                client.machine.name
            );
            Ok(())
        })?;
        offered.push(format!("{} {region}", client.machine.name));
    }
    deployment.wait_ready(EDGE)?;
    let n1 = deployment.rig.nodes.first().context("no node")?.machine;
    let ips = [n1.v4.to_string(), n1.v6.to_string()];
    let address = relayed_by(deployment, |address| {
        ips.iter().any(|ip| address.contains(ip))
    })
    .context("c1 and c2 do not talk through n1")?;
    Ok(format!("{}; c1 and c2 by {address}", offered.join(", ")))
}

fn total(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let quota = |wanted: &str| {
        deployment.soon("the status reports the quota", || {
            let is = deployment.condition(EDGE, "WithinQuota")?;
            ensure!(is == wanted, "WithinQuota is '{is}'");
            Ok(())
        })
    };
    deployment.apply(EDGE, &json!({"maxRelays": 1}))?;
    quota("False/AllowanceExceeded")?;
    deployment.wait_ready(EDGE)?;
    let one = running(deployment)?;
    ensure!(one.len() == 1, "{} relays run", one.len());
    deployment.apply(EDGE, &json!({"maxRelays": 2}))?;
    quota("True/WithinAllowance")?;
    deployment.eventually("the second relay is ready", || {
        let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
        ensure!(relays == "2/2", "relays: {relays}");
        Ok(())
    })?;
    let two = running(deployment)?;
    deployment.apply(EDGE, &json!({"maxRelays": 1}))?;
    quota("False/AllowanceExceeded")?;
    let still = running(deployment)?;
    deployment.delete(EDGE)?;
    ensure!(
        one.iter().all(|(node, pod)| two.get(node) == Some(pod)),
        "a relay was moved to make place: {one:?} became {two:?}"
    );
    ensure!(
        still == two,
        "a running relay was stopped: {two:?} became {still:?}"
    );
    Ok("1, 2, and still 2".into())
}

fn shared(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let region = |name: &str, selector: Value| {
        let placement = json!({"nodeSelector": selector});
        json!({"name": name, "clients": ["tag:office"], "placement": placement})
    };
    let (office, lab) = (region("office", json!({})), region("lab", json!({})));
    let both = json!({"maxRelays": 2, "regions": [office, lab]});
    let one_each = || {
        deployment.eventually("each region has one relay", || {
            let regions = deployment.object("peerrelay", EDGE)?["status"]["regions"].clone();
            let counts: Vec<_> = regions.as_array().into_iter().flatten().collect();
            let one = |region: &&Value| region["ready"] == 1 && region["desired"] == 1;
            ensure!(counts.len() == 2 && counts.iter().all(one), "{regions}");
            Ok(())
        })?;
        deployment.wait_ready(EDGE)?;
        running(deployment)
    };
    deployment.apply(EDGE, &both)?;
    let from_nothing = one_each()?;
    ensure!(from_nothing.len() == 2, "relays on {from_nothing:?}");
    deployment.apply(EDGE, &json!({"maxRelays": 2, "regions": [office]}))?;
    deployment.eventually("one region has both nodes", || {
        let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
        ensure!(relays == "2/2", "relays: {relays}");
        Ok(())
    })?;
    let alone = running(deployment)?;
    deployment.apply(EDGE, &both)?;
    let later = one_each()?;
    let kept = alone.iter().filter(|(n, pod)| later.get(*n) == Some(*pod));
    ensure!(kept.count() == 1, "{alone:?} became {later:?}");
    let nowhere = region("lab", json!({"disktype": "sdd"}));
    deployment.apply(EDGE, &json!({"maxRelays": 2, "regions": [office, nowhere]}))?;
    deployment.soon("the region without a relay is named", || {
        let status = deployment.object("peerrelay", EDGE)?["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|c| c["type"] == "Ready");
        let ready = ready.context("no condition")?;
        let says = ready["message"].as_str().unwrap_or_default();
        ensure!(
            ready["reason"] == "NoNodes" && says.contains("region lab"),
            "{ready}"
        );
        let available = deployment.condition(EDGE, "RelaysAvailable")?;
        ensure!(available == "True/RelaysReady", "available: {available}");
        Ok(())
    })?;
    deployment.delete(EDGE)?;
    Ok("1 and 1; 2 alone; 1 and 1 again; a mistyped selector is named".into())
}

fn node_deleted(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let one = json!({"regions": [{
        "name": "office", "clients": ["tag:office"], "placement": {"maxRelays": 1},
    }]});
    deployment.apply(EDGE, &one)?;
    deployment.wait_ready(EDGE)?;
    let before = running(deployment)?;
    let first = before.keys().next().context("no relay runs")?.clone();
    let node = deployment
        .rig
        .nodes
        .iter()
        .find(|n| n.machine.name == first);
    let node = node.context("the relay is on no node of the rig")?;
    deployment.rig.kubectl(["cordon", &first])?;
    let cordoned = deployment.soon("the cordon is seen", || {
        let nodes = deployment.object("peerrelay", EDGE)?["status"]["regions"][0]["nodes"].clone();
        ensure!(nodes == 2, "{nodes} nodes fit");
        Ok(())
    });
    let after = running(deployment)?;
    deployment.rig.kubectl(["uncordon", &first])?;
    cordoned?;
    ensure!(after == before, "a cordon moved the relay");
    let moved = deleted(deployment, node, &first);
    // Other scenarios need the node, also after a failure.
    node.stop_kubelet()?;
    node.start_kubelet()?;
    deployment.eventually("the node is back", || {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let ready = deployment
            .rig
            .kubectl(["get", "node", &first, "-o", path])?;
        ensure!(ready == "True", "{first} is not ready");
        Ok(())
    })?;
    let second = moved?;
    let stays = running(deployment)?;
    ensure!(
        stays.keys().eq([&second]),
        "the node that came back took the relay: {stays:?}"
    );
    let new = deployment
        .rig
        .nodes
        .iter()
        .find(|n| n.machine.name == second);
    let new = new.context("the relay is on no node of the rig")?.machine;
    let own = [new.v4.to_string(), new.v6.to_string()];
    let by_new =
        |route: &Route| is_relay(route) && own.iter().any(|ip| route.to_string().contains(ip));
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (route, took) = deployment.wait_route(c1, c2, by_new, SEARCH)?;
    deployment.delete(EDGE)?;
    Ok(format!(
        "{first} to {second}, {route} after {} s",
        took.as_secs()
    ))
}

/// Deletes the node's object, and returns the relay's new node.
fn deleted(deployment: &Deployment<'_>, node: &Node, first: &str) -> Result<String> {
    node.stop_kubelet()?;
    deployment.rig.kubectl(["delete", "node", first])?;
    deployment.wait_ready(EDGE)?;
    let mut second = None;
    deployment.eventually("the relay is on the other node", || {
        let now = running(deployment)?;
        second = now.keys().next().filter(|node| *node != first).cloned();
        ensure!(now.len() == 1 && second.is_some(), "relays: {now:?}");
        deployment.wait_ready(EDGE)
    })?;
    second.context("there is no other node")
}

/// The relays' pods by node.
pub(super) fn running(deployment: &Deployment<'_>) -> Result<BTreeMap<String, String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pods = deployment.list("pods", EDGE)?;
    let alive = pods
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(alive
        .map(|pod| {
            (
                text(&pod["spec"]["nodeName"]),
                text(&pod["metadata"]["uid"]),
            )
        })
        .collect())
}

/// The tailnet's IPv4 address of the only relay of a region.
fn relay_of(deployment: &Deployment<'_>, region: &str) -> Result<String> {
    let nodes: Value = serde_json::from_str(&deployment.rig.kubectl([
        "get",
        "relaynodes",
        "-n",
        "relays",
        "-o",
        "json",
    ])?)?;
    let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
    let mut of_region = nodes.iter().filter(|node| node["spec"]["region"] == region);
    let node = of_region.next().context("no relay reports")?;
    ensure!(of_region.next().is_none(), "more than one relay reports");
    let addresses = &node["status"]["tailnet"]["addresses"];
    let first = addresses[0].as_str().context("the relay has no address")?;
    Ok(first.split('/').next().unwrap_or(first).to_owned())
}

/// The relays that a client may use, according to the client.
fn servers(client: &Client) -> Result<Vec<String>> {
    let text = client.tailscale(["debug", "peer-relay-servers"])?;
    let all: Vec<String> = serde_json::from_str(&text)?;
    Ok(all)
}
