//! The state of the cluster after a failure, for a person who was not there.

use std::fmt::Write as _;

use anyhow::Result;
use rig::{
    cluster::Node,
    deployment::{Deployment, NAMESPACE, OPERATOR_NAMESPACE},
};

/// Last lines of each look.
const LINES: usize = 25;

/// The state as kubectl, the relays' metrics and the clients show it now.
pub(crate) fn of(deployment: &Deployment<'_>) -> String {
    let mut text = String::new();
    let mut look = |what: &str, said: Result<String>| {
        let said = said.unwrap_or_else(|error| format!("{error:#}"));
        let lines: Vec<_> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
        write!(text, "  {what}\n    {tail}\n").ok();
    };
    for words in KUBECTL {
        look(
            &format!("kubectl {}", words.join(" ")),
            deployment.rig.kubectl(words),
        );
    }
    for node in &deployment.rig.nodes {
        let name = node.machine.name;
        look(
            &format!("metrics of the relay on {name}"),
            counted(deployment, node),
        );
    }
    for client in deployment.rig.tailnet.clients() {
        let name = client.machine.name;
        look(
            &format!("{name}: tailscale status"),
            client.tailscale(["status"]),
        );
        look(
            &format!("{name}: tailscale debug peer-relay-servers"),
            client.debug_peer_relay_servers(),
        );
    }
    text
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

/// The samples that are not zero, in a few lines.
fn counted(deployment: &Deployment<'_>, node: &Node) -> Result<String> {
    let metrics = deployment.metrics(node)?;
    let counted = metrics.iter().filter(|(name, value)| {
        *value != 0.0 && name.starts_with("peerrelay_") && !name.contains("_bucket{")
    });
    let counted: Vec<_> = counted
        .map(|(name, value)| format!("{} {value}", name.trim_start_matches("peerrelay_")))
        .collect();
    Ok(counted.join("; "))
}
