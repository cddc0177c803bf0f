//! PeerRelays whose OAuth client is replaced, or takes the place of an auth key.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::Deployment,
    tailnet::{NewKey, User},
};
use serde_json::{Value, json};

use super::{
    OPERATOR_TAG, allow_secret, apply, keys_of, nothing_is_left, policy, refused, write_secret,
};
use crate::scenarios::{
    FALLBACK, Scenario,
    held::Held,
    relayed,
    restarts::{longest, pod_of, stays},
    vacant,
};

/// TCP port of the connection over relays.
const PORT: u16 = 7_012;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an OAuth client is revoked and replaced while a connection continues, and a \
                   relay without a device gets a key of the new one",
            run: replaced,
        },
        Scenario {
            name: "relays that change from an auth key to an OAuth client keep their devices, and \
                   get the tag that they lacked",
            run: changed,
        },
    ]
}

fn replaced(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    allow_secret(deployment)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let client = || api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG]);
    let (old, new) = (client()?, client()?);
    write_secret(deployment, &old)?;
    let name = &format!("replaced-{}", std::process::id());
    apply(deployment, name)?;
    deployment.wait_ready(name)?;
    let before = containers(deployment, name)?;

    let session = relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;

    api.revoke(&old.id)?;
    let used = pod_of(deployment, &session)?["metadata"]["name"].clone();
    let reports = deployment.reports(name)?;
    let other = reports.iter().find(|r| r["metadata"]["name"] != used);
    let device = &other.context("there is one relay only")?["status"]["tailnet"]["nodeID"];
    let device = device.as_str().context("the other relay has no device")?;
    api.delete_device(device)?;
    refused(deployment, name, "CredentialRefused", "not revoked")?;
    write_secret(deployment, &new)?;
    deployment.wait_ready(name)?;
    nothing_is_left(deployment, name)?;
    let created = keys_of(&api, &new)?.len();
    ensure!(created == 1, "{created} keys for one relay");

    let now = relayed(deployment)?;
    stays(deployment, &session, &now)?;
    let trips = held.finish().context("the connection did not survive")?;
    ensure!(longest(&trips)? < FALLBACK, "TCP stalled: {trips}");
    let after = containers(deployment, name)?;
    ensure!(after == before, "relays were restarted");
    deployment.delete(name)?;
    Ok(format!("{session}, then {now}; on one connection {trips}"))
}

fn changed(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    allow_secret(deployment)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    let tailnet = &deployment.rig.tailnet;
    let member = tailnet.api(User::Member)?.mint(&NewKey::reusable())?;
    deployment.write_secret(&member)?;
    let name = &format!("changed-{}", std::process::id());
    deployment.apply(name, &json!({}))?;
    deployment.eventually("relays lack their tag", || {
        let ready = deployment.condition(name, "Ready")?;
        ensure!(ready == "False/TagMissing", "Ready is '{ready}'");
        let (joined, relays) = (devices(deployment, name)?.len(), deployment.rig.nodes.len());
        ensure!(joined == relays, "{joined} of {relays} relays have joined");
        Ok(())
    })?;
    let before = devices(deployment, name)?;

    let api = tailnet.api(User::Admin)?;
    let client = api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG])?;
    write_secret(deployment, &client)?;
    apply(deployment, name)?;
    deployment.wait_ready(name)?;
    nothing_is_left(deployment, name)?;
    let after = devices(deployment, name)?;
    ensure!(before == after, "devices {before:?} have become {after:?}");
    let created = keys_of(&api, &client)?.len();
    ensure!(created == after.len(), "{created} keys for {after:?}");
    deployment.delete(name)?;
    Ok(format!("{created} keys for {} relays", after.len()))
}

/// The node IDs of the relays' devices.
fn devices(deployment: &Deployment<'_>, name: &str) -> Result<BTreeSet<String>> {
    let reports = deployment.reports(name)?;
    let ids = reports.iter().map(|report| {
        let id = report["status"]["tailnet"]["nodeID"].as_str();
        id.map(str::to_owned).context("a relay has no device")
    });
    ids.collect()
}

/// The pods of the relays, with the restarts of each.
fn containers(deployment: &Deployment<'_>, name: &str) -> Result<Vec<(Value, Value)>> {
    let pods = deployment.list("pods", name)?;
    let of = |pod: &Value| {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        (pod["metadata"]["uid"].clone(), restarts.clone())
    };
    Ok(pods.iter().map(of).collect())
}
