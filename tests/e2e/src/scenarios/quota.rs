//! The total of relays in a tailnet, over PeerRelays.

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, message},
    names::{NAMESPACE, SECRET},
    tailnet::LOGIN_SERVER,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, vacant};

/// Nodes that the tests make. They have no machine and no room for a pod, so no relay runs, and
/// no request goes to tailscale.com.
const NODES: [&str; 2] = ["quota-1", "quota-2"];
/// PeerRelays with one relay each.
const RELAYS: [&str; 4] = [EDGE, "second", "third", "own"];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "the quota of a tailnet counts all its PeerRelays, however they write the URL of the \
               control server",
        run: shared,
    }]
}

fn shared(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let seen = counted(deployment);
    for name in RELAYS {
        deployment.delete(name)?;
    }
    for node in NODES {
        deployment.remove_node(node)?;
    }
    seen
}

fn counted(deployment: &Deployment<'_>) -> Result<String> {
    for node in NODES {
        deployment.add_node(node, &json!({"rig/quota": "yes"}))?;
    }
    let [first, second, third, own] = RELAYS;
    deployment.apply(first, &one(40_400, None))?;
    deployment.apply(second, &one(40_500, None))?;
    let within = "2 relays, at most 2 in total in the tailnet: 1 of this PeerRelay, 1 of ";
    reported(
        deployment,
        first,
        "True/WithinAllowance",
        &format!("{within}{NAMESPACE}/{second}"),
    )?;
    reported(
        deployment,
        second,
        "True/WithinAllowance",
        &format!("{within}{NAMESPACE}/{first}"),
    )?;

    let written_otherwise = "https://login.tailscale.com:443/";
    deployment.apply(third, &one(40_600, Some(written_otherwise)))?;
    deployment.apply(own, &one(40_700, Some(LOGIN_SERVER)))?;
    for name in [first, second, third] {
        let exceeded = "3 relays, at most 2 in total in the tailnet: 1 of this PeerRelay";
        reported(deployment, name, "False/AllowanceExceeded", exceeded)?;
    }
    deployment.eventually("the PeerRelay of another control server is counted", || {
        let ready = deployment.condition(own, "Ready")?;
        ensure!(!ready.is_empty(), "it has no condition");
        Ok(())
    })?;
    let quota = deployment.condition(own, "WithinQuota")?;
    ensure!(quota.is_empty(), "WithinQuota of {own} is '{quota}'");

    let mut plan = one(40_400, None);
    plan["maxRelays"] = json!(3);
    deployment.apply(first, &plan)?;
    for name in [first, second, third] {
        reported(
            deployment,
            name,
            "True/WithinAllowance",
            "3 relays, at most 3 in total",
        )?;
    }
    Ok("2 of 2, then 3 of 2, then 3 of 3; another control server is not counted".into())
}

/// A PeerRelay with one relay on the nodes without a machine.
fn one(port: u16, control_url: Option<&str>) -> Value {
    let mut tailnet = json!({"authKey": {"secretName": SECRET}});
    if let Some(url) = control_url {
        tailnet["controlURL"] = json!(url);
    }
    let tolerations = json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
    ]);
    json!({"port": port, "tailnet": tailnet, "regions": [{
        "name": "office", "clients": ["tag:office"],
        "placement": {
            "nodeSelector": {"rig/quota": "yes"}, "maxRelays": 1, "tolerations": tolerations,
        },
    }]})
}

fn reported(deployment: &Deployment<'_>, name: &str, wanted: &str, words: &str) -> Result<()> {
    deployment
        .soon("the status has the total", || {
            let is = deployment.condition(name, "WithinQuota")?;
            let said = message(&deployment.object("peerrelay", name)?, "WithinQuota");
            ensure!(
                is == wanted && said.contains(words),
                "WithinQuota is '{is}': {said}"
            );
            Ok(())
        })
        .with_context(|| name.to_owned())
}
