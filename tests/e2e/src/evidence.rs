//! The state of the cluster after a failure, for the reader of the run's output.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use rig::{
    cluster::Node,
    deployment::Deployment,
    names::{NAMESPACE, OPERATOR_NAMESPACE},
};
use serde_json::Value;

/// Number of last lines that are kept of each output.
const LINES: usize = 25;

/// The state as kubectl, the relays' metrics and the clients show it now.
pub(crate) fn of(deployment: &Deployment<'_>) -> String {
    let mut text = String::new();
    let mut add = |what: &str, said: Result<String>| {
        let said = said.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<_> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
        write!(text, "  {what}\n    {tail}\n").ok();
    };
    for words in KUBECTL {
        add(
            &format!("kubectl {}", words.join(" ")),
            deployment.rig.kubectl(words),
        );
    }
    let ports = metrics_ports(deployment).unwrap_or_default();
    for node in &deployment.rig.nodes {
        for &port in &ports {
            let name = node.machine.name;
            add(
                &format!("metrics of the relay on {name} at port {port}"),
                counted(deployment, node, port),
            );
        }
    }
    for client in deployment.rig.tailnet.clients() {
        let name = client.machine.name;
        add(
            &format!("{name}: tailscale status"),
            client.tailscale(["status"]),
        );
        add(
            &format!("{name}: tailscale debug peer-relay-servers"),
            client.debug_peer_relay_servers(),
        );
        add(
            &format!("{name}: home DERP regions of its peers"),
            client.status().map(|status| home_regions(&status)),
        );
    }
    add("devices as control knows them", devices(deployment));
    text
}

/// Name and home DERP region of each peer of a client.
fn home_regions(status: &Value) -> String {
    let peers = status["Peer"].as_object().into_iter().flatten();
    let peers = peers.map(|(_, peer)| format!("{} {}", peer["HostName"], peer["Relay"]));
    peers.collect::<Vec<_>>().join("; ")
}

/// Name, home DERP region and connection to control of each device.
fn devices(deployment: &Deployment<'_>) -> Result<String> {
    let nodes = deployment.rig.tailnet.nodes()?;
    let nodes = nodes.iter().map(|node| {
        let (name, home, streams) = (&node.name, node.home_derp, node.streaming);
        format!("{name}: home region {home}, listens for maps: {streams}")
    });
    Ok(nodes.collect::<Vec<_>>().join("\n"))
}

const KUBECTL: [&[&str]; 5] = [
    &[
        "get",
        "peerrelays,relaynodes,daemonsets,pods",
        "-n",
        NAMESPACE,
        "-o",
        "wide",
    ],
    &["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "wide"],
    &["get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"],
    &[
        "logs",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/component=relay",
        "--tail=15",
    ],
    &[
        "logs",
        "-n",
        OPERATOR_NAMESPACE,
        "-l",
        "app.kubernetes.io/name=peerrelay-operator",
        "--tail=15",
    ],
];

/// Ports at which the relays of the namespace have their metrics.
fn metrics_ports(deployment: &Deployment<'_>) -> Result<BTreeSet<u16>> {
    let words = ["get", "daemonsets", "-n", NAMESPACE, "-o", "json"];
    let sets: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
    let sets = sets["items"].as_array().into_iter().flatten();
    let ports = sets.flat_map(|set| {
        let ports = &set["spec"]["template"]["spec"]["containers"][0]["ports"];
        ports.as_array().into_iter().flatten()
    });
    let metrics = ports.filter(|port| port["name"] == "metrics");
    let numbers = metrics.filter_map(|port| port["containerPort"].as_u64());
    Ok(numbers.filter_map(|port| port.try_into().ok()).collect())
}

/// The samples that are not zero, in a few lines.
fn counted(deployment: &Deployment<'_>, node: &Node, port: u16) -> Result<String> {
    let metrics = deployment.metrics_at(node, port)?;
    let counted = metrics.iter().filter(|(name, value)| {
        *value != 0.0 && name.starts_with("peerrelay_") && !name.contains("_bucket{")
    });
    let counted: Vec<_> = counted
        .map(|(name, value)| format!("{} {value}", name.trim_start_matches("peerrelay_")))
        .collect();
    Ok(counted.join("; "))
}
