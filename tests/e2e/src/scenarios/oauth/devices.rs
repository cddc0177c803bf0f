//! Devices that leave the tailnet with their relays.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, condition},
    names::NAMESPACE,
    tailnet::{Api, Fault, LostPart, User},
    wait::Wait,
};
use serde_json::{Value, json};

use super::{OPERATOR_TAG, SECRET, allow_secret, policy, tailnet, write_secret};
use crate::scenarios::{Scenario, operator::kill_operators, vacant};

/// Pattern of the path of requests about one device.
const DEVICE: &str = "/api/v2/device/*";
/// Pattern of the path of the policy.
const POLICY: &str = "/api/v2/tailnet/*/acl";
/// Wait until a PeerRelay is deleted that cannot delete its devices: two minutes.
const DEADLINE: Wait = Wait::new(125, 150);
/// Wait until a device is deleted whose node is gone: about 40 seconds until Kubernetes removes the
/// pods of the node, and at least two minutes.
const GRACE: Wait = Wait::new(130, 200);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "devices leave the tailnet with their region and their PeerRelay, and their keys \
                   leave the nodes, also if the operator is killed between or the Secret goes first, \
                   and both stay with Retain",
            run: leave,
        },
        Scenario {
            name: "a PeerRelay is deleted while the API fails: it ends after two minutes, and \
                   events name its devices and its entries in the policy",
            run: left,
        },
        Scenario {
            name: "a deleted node loses its device after two minutes, and returns as a new device",
            run: node_gone,
        },
    ]
}

fn leave(deployment: &Deployment<'_>) -> Result<String> {
    let api = begin(deployment)?;
    let name = &format!("leave-{}", std::process::id());
    let regions = regions();
    let apply = |regions: &Value, policy: &str| {
        let mut tailnet = tailnet(deployment, name)?;
        tailnet["deletionPolicy"] = json!(policy);
        deployment.apply(name, &json!({"tailnet": tailnet, "regions": regions}))
    };
    apply(&regions, "Delete")?;
    deployment.wait_ready(name)?;
    let both = recorded(deployment, name, 2)?;
    ensure!(is_held(deployment, name)?, "there is no finalizer");

    // A removed region.
    apply(&json!([regions[0]]), "Delete")?;
    let one = recorded(deployment, name, 1)?;
    let lab: BTreeSet<_> = both.difference(&one).cloned().collect();
    ensure!(in_tailnet(&api, &lab)?.is_empty(), "{lab:?} is left");
    ensure!(in_tailnet(&api, &one)? == one, "{one:?} is gone");

    // Retain.
    apply(&json!([regions[0]]), "Retain")?;
    recorded(deployment, name, 0)?;
    deployment.soon("the finalizer is removed", || {
        ensure!(!is_held(deployment, name)?, "it is still there");
        Ok(())
    })?;
    deployment.delete(name)?;
    ensure!(in_tailnet(&api, &one)? == one, "{one:?} is gone");

    // The same device returns, and is deleted while the operator does not learn of it.
    apply(&json!([regions[0]]), "Delete")?;
    deployment.wait_ready(name)?;
    ensure!(recorded(deployment, name, 1)? == one, "another device");
    api.inject(
        &Fault::path("DELETE", DEVICE)
            .loses(LostPart::Answer)
            .times(1),
    )?;
    delete(deployment, name)?;
    deployment.eventually("the device is gone", || gone(&api, &one))?;
    kill_operators(deployment)?;
    let killed = Wait::PODS.until("the PeerRelay is gone", || absent(deployment, name))?;
    api.clear_faults()?;
    // Those of the region that was removed before stay (decision 0022).
    let stored = keys(deployment, name, &["office"])?;
    ensure!(stored.is_empty(), "nodes still have {stored:?}");

    apply(&regions, "Delete")?;
    let took = without_secret(deployment, &api, name)?;
    Ok(format!(
        "gone after {:.1} s, with a killed operator after {:.1} s",
        took.as_secs_f64(),
        killed.as_secs_f64()
    ))
}

/// Deletes the PeerRelay after its Secret. Returns the time until it is gone.
fn without_secret(deployment: &Deployment<'_>, api: &Api, name: &str) -> Result<Duration> {
    let regions = ["office", "lab"];
    deployment.wait_ready(name)?;
    let both = recorded(deployment, name, 2)?;
    let stored = keys(deployment, name, &regions)?;
    ensure!(stored.len() == 2, "nodes have {stored:?}");
    deployment.remove_secret_named(SECRET)?;
    delete(deployment, name)?;
    let took = Wait::PODS.until("the PeerRelay is gone", || absent(deployment, name))?;
    gone(api, &both)?;
    let stored = keys(deployment, name, &regions)?;
    ensure!(stored.is_empty(), "nodes still have {stored:?}");
    Ok(took)
}

/// Two regions, each with a relay.
fn regions() -> Value {
    let on = |region: &str, node: &str| {
        json!({
            "name": region, "clients": ["tag:office"],
            "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
        })
    };
    json!([on("office", "n1"), on("lab", "n2")])
}

fn left(deployment: &Deployment<'_>) -> Result<String> {
    let api = begin(deployment)?;
    let name = &format!("left-{}", std::process::id());
    let grants = json!({"sync": "Apply", "oauth": {"secretName": SECRET}});
    let spec = json!({"tailnet": tailnet(deployment, name)?, "grants": grants});
    deployment.apply(name, &spec)?;
    deployment.wait_ready(name)?;
    let devices = recorded(deployment, name, 2)?;
    deployment.soon("the policy has the entries", || {
        let synced = deployment.condition(name, "PolicySynced")?;
        ensure!(synced == "True/PolicyUpToDate", "it is '{synced}'");
        Ok(())
    })?;
    for path in [DEVICE, POLICY] {
        api.inject(&Fault::path("", path).answers(503, "try later"))?;
    }
    delete(deployment, name)?;
    let seen = DEADLINE.until("the PeerRelay is gone", || absent(deployment, name));
    api.clear_faults()?;
    let took = seen?;
    ensure!(took > Duration::from_secs(110), "gone after {took:?}");
    let words = ["get", "events", "-n", NAMESPACE, "-o", "json"];
    let events: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
    let note = |reason: &str| -> Result<&str> {
        let mut events = events["items"].as_array().into_iter().flatten();
        let event = events
            .find(|event| event["reason"] == reason && event["involvedObject"]["name"] == **name);
        let event = event.with_context(|| format!("there is no event {reason}"))?;
        Ok(event["message"].as_str().unwrap_or_default())
    };
    let entries = note("PolicyEntriesLeft")?;
    ensure!(
        entries.contains(&format!("{NAMESPACE}/{name}")) && entries.contains("503"),
        "it says '{entries}'"
    );
    let note = note("DevicesLeft")?;
    for id in &devices {
        ensure!(note.contains(id), "{id} is not in '{note}'");
        api.delete_device(id)?;
    }
    ensure!(note.contains("503"), "no reason in '{note}'");
    Ok(format!("{:.0} s: {note}", took.as_secs_f64()))
}

fn node_gone(deployment: &Deployment<'_>) -> Result<String> {
    let api = begin(deployment)?;
    let name = &format!("node-{}", std::process::id());
    super::apply(deployment, name)?;
    deployment.wait_ready(name)?;
    let both = recorded(deployment, name, 2)?;
    let node = deployment.rig.nodes.last().context("no node")?;
    node.stop_kubelet()?;
    deployment.remove_node(node.machine.name)?;
    let seen = GRACE.until("the device of the node is gone", || {
        let left = in_tailnet(&api, &both)?;
        ensure!(left.len() == 1, "{left:?} are there");
        Ok(())
    });
    node.start_kubelet()?;
    let took = seen?;
    ensure!(took > Duration::from_secs(110), "gone after {took:?}");
    deployment.eventually("the relay of the node is ready again", || {
        let relay = deployment.object("peerrelay", name)?;
        let ready = condition(&relay, "Ready");
        let relays = &relay["status"]["relays"];
        ensure!(
            ready == "True/RelaysReady" && relays == "2/2",
            "{ready} {relays}"
        );
        Ok(())
    })?;
    let again = recorded(deployment, name, 2)?;
    ensure!(again != both, "the same devices");
    deployment.delete(name)?;
    gone(&api, &again)?;
    Ok(format!("gone after {:.0} s", took.as_secs_f64()))
}

/// Prepares a credential that can delete devices.
fn begin(deployment: &Deployment<'_>) -> Result<Api> {
    vacant(deployment)?;
    allow_secret(deployment)?;
    let own = format!(r#""tag:relay-lab": ["autogroup:admin", "{OPERATOR_TAG}"]"#);
    let lab = r#""tag:relay-lab":    ["autogroup:admin"]"#;
    let policy = policy(true).replace(lab, &own);
    deployment.rig.tailnet.write_policy(&policy)?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let scopes = [
        "auth_keys",
        "devices:core",
        "policy_file",
        "devices:posture_attributes:read",
    ];
    let client = api.oauth_client(&scopes, &[OPERATOR_TAG])?;
    write_secret(deployment, &client)?;
    Ok(api)
}

/// Waits until the status has a number of devices, and returns their IDs.
fn recorded(deployment: &Deployment<'_>, name: &str, count: usize) -> Result<BTreeSet<String>> {
    /// Wait until withdrawn relays have ended, which takes two minutes at most.
    const WITHDRAWN: Wait = Wait::new(30, 150);
    let mut ids = BTreeSet::new();
    WITHDRAWN.until("the status has the devices", || {
        let relay = deployment.object("peerrelay", name)?;
        let devices = relay["status"]["devices"].as_array();
        let found = devices.into_iter().flatten();
        let found = found.filter_map(|device| device["nodeID"].as_str());
        ids = found.map(str::to_owned).collect();
        ensure!(ids.len() == count, "it has {ids:?}");
        Ok(())
    })?;
    Ok(ids)
}

/// Those of the devices that are in the tailnet.
fn in_tailnet(api: &Api, ids: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let devices = api.devices()?.into_iter().map(|device| device.node_id);
    Ok(devices.filter(|id| ids.contains(id)).collect())
}

fn gone(api: &Api, ids: &BTreeSet<String>) -> Result<()> {
    let left = in_tailnet(api, ids)?;
    ensure!(left.is_empty(), "{left:?} are left");
    Ok(())
}

/// Files with the keys of the relays of these regions, on all nodes.
fn keys(deployment: &Deployment<'_>, name: &str, regions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for node in &deployment.rig.nodes {
        for region in regions {
            let directory = node.relay_state().join(NAMESPACE);
            let file = directory.join(format!("{name}-{region}/identity.json"));
            if file.try_exists()? {
                found.push(file);
            }
        }
    }
    Ok(found)
}

/// Deletes a PeerRelay without waiting for the end.
fn delete(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    let words = ["delete", "peerrelay", name, "-n", NAMESPACE, "--wait=false"];
    deployment.rig.kubectl(words).map(drop)
}

fn absent(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    let words = [
        "get",
        "peerrelay",
        name,
        "-n",
        NAMESPACE,
        "--ignore-not-found",
    ];
    let found = deployment.rig.kubectl(words)?;
    ensure!(found.is_empty(), "it is there");
    Ok(())
}

fn is_held(deployment: &Deployment<'_>, name: &str) -> Result<bool> {
    let relay = deployment.object("peerrelay", name)?;
    let finalizers = relay["metadata"]["finalizers"].as_array();
    Ok(finalizers
        .into_iter()
        .flatten()
        .any(|f| f == "peerrelay.dev/devices"))
}
