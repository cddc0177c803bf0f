//! Namespaces that are deleted with the PeerRelays in them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use rig::{
    deployment::{Deployment, condition},
    names::NAMESPACE,
    tailnet::{Api, User},
    wait::Wait,
};
use serde_json::{Value, json};

use super::{OPERATOR_TAG, SECRET, allow_secrets, policy, set_values, tailnet, write_secret_in};
use crate::scenarios::{Scenario, vacant};

/// Namespace that is deleted.
const LEAVING: &str = "leaving";
/// Name of the PeerRelay in it.
const RELAY: &str = "guest";
/// Wait until a namespace is gone: two minutes, if the devices of its relays cannot be deleted.
const END: Wait = Wait::new(60, 170);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a namespace is deleted with a PeerRelay and its Secret in it: its devices leave the tailnet \
               and it ends, also if the operator watches only some namespaces",
        run: ends,
    }]
}

fn ends(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    deployment.rig.tailnet.write_policy(&policy(true))?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let shown = (|| {
        let all = end(deployment, &api, &[])?;
        let some = end(deployment, &api, &[NAMESPACE, LEAVING])?;
        Ok(format!(
            "gone after {:.0} s, and with watchNamespaces after {:.0} s",
            all.as_secs_f64(),
            some.as_secs_f64()
        ))
    })();
    // The role for the Secret would be in a namespace that is gone.
    let reset = set_values(deployment, &["watchNamespaces=[]", "credentials=[]"]);
    shown.and_then(|shown| reset.map(|()| shown))
}

/// Deletes the namespace with a PeerRelay, while the operator watches these namespaces, or all. Returns the
/// time until it is gone.
fn end(deployment: &Deployment<'_>, api: &Api, watched: &[&str]) -> Result<Duration> {
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEAVING, "labels": labels},
    });
    deployment.rig.apply(&namespace.to_string())?;
    watch(deployment, watched)?;
    allow_secrets(deployment, LEAVING, &[SECRET])?;
    let client = api.oauth_client(&["auth_keys", "devices:core"], &[OPERATOR_TAG])?;
    write_secret_in(deployment, LEAVING, SECRET, &client)?;
    let spec = json!({"tailnet": tailnet(deployment, RELAY)?, "port": 40_300});
    let mut relay = deployment.peer_relay(RELAY, &spec)?;
    relay["metadata"]["namespace"] = json!(LEAVING);
    deployment.rig.apply(&relay.to_string())?;
    let mut devices = BTreeSet::new();
    deployment.eventually("the PeerRelay is ready with its devices", || {
        let words = ["get", "peerrelay", RELAY, "-n", LEAVING, "-o", "json"];
        let relay: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
        let ready = condition(&relay, "Ready");
        ensure!(ready == "True/RelaysReady", "Ready is '{ready}'");
        let found = relay["status"]["devices"].as_array().into_iter().flatten();
        let found = found.filter_map(|device| device["nodeID"].as_str());
        devices = found.map(str::to_owned).collect();
        ensure!(devices.len() == 2, "it has {devices:?}");
        Ok(())
    })?;
    let words = ["delete", "namespace", LEAVING, "--wait=false"];
    deployment.rig.kubectl(words)?;
    let took = END.until("the namespace is gone", || {
        let words = ["get", "namespace", LEAVING, "--ignore-not-found"];
        let found = deployment.rig.kubectl(words)?;
        ensure!(found.is_empty(), "it is there: {found}");
        Ok(())
    })?;
    let left = api.devices()?.into_iter().map(|device| device.node_id);
    let left: Vec<_> = left.filter(|id| devices.contains(id)).collect();
    ensure!(left.is_empty(), "{left:?} are left after {took:?}");
    Ok(took)
}

/// Limits the operator to some namespaces, or lets it watch all if there are none.
fn watch(deployment: &Deployment<'_>, namespaces: &[&str]) -> Result<()> {
    set_values(
        deployment,
        &[&format!("watchNamespaces={}", json!(namespaces))],
    )
}
