//! Auth keys that are missing or wrong.

use std::time::Instant;

use anyhow::{Result, ensure};
use rig::{
    auth_key::AuthKey,
    deployment::{Deployment, message},
};
use serde_json::json;

use super::{EDGE, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a missing and a wrong auth key stall with their reason, and the right \
                   one recovers",
            run: keys,
        },
        Scenario {
            name: "relays register with an auth key at the key of the Secret that the PeerRelay \
                   names",
            run: named_key,
        },
    ]
}

fn named_key(deployment: &Deployment<'_>) -> Result<String> {
    const SECRET: &str = "tailnet-keys";
    deployment.delete(EDGE)?;
    let name = &format!("named-key-{}", std::process::id());
    let mut tailnet = deployment.peer_relay(name, &json!({}))?["spec"]["tailnet"].clone();
    tailnet["authKey"] = json!({"secretName": SECRET, "key": "ts.key"});
    let secret = |texts| deployment.write_secret_named(SECRET, &texts);
    let auth_key = deployment.rig.tailnet.auth_key()?;
    secret(json!({"authkey": "tskey-auth-wrong"}))?;
    deployment.apply(name, &json!({"tailnet": tailnet}))?;
    stalled(deployment, name, "AuthKeyMissing")?;
    let said = message(&deployment.object("peerrelay", name)?, "Stalled");
    ensure!(said.contains("'ts.key'"), "the message is '{said}'");
    secret(json!({"authkey": "tskey-auth-wrong", "ts.key": auth_key.as_str()}))?;
    let start = Instant::now();
    deployment.wait_ready(name)?;
    deployment.delete(name)?;
    Ok(format!("ready after {} s", start.elapsed().as_secs()))
}

fn keys(deployment: &Deployment<'_>) -> Result<String> {
    deployment.delete(EDGE)?;
    // Devices that have joined before need no key, so these are new ones.
    let name = &format!("keys-{}", std::process::id());
    deployment.remove_secret()?;
    deployment.apply(name, &json!({}))?;
    stalled(deployment, name, "AuthKeyMissing")?;
    let wrong = AuthKey::new("tskey-auth-wrong");
    deployment.write_secret(&wrong)?;
    stalled(deployment, name, "AuthKeyInvalid")?;
    let pods = pods(deployment, name)?;
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)?;
    let start = Instant::now();
    deployment.wait_ready(name)?;
    ensure!(
        self::pods(deployment, name)? == pods,
        "relays were restarted"
    );
    ensure!(
        deployment.condition(name, "Stalled")?.is_empty(),
        "Stalled stays"
    );
    let events = deployment
        .rig
        .kubectl(["get", "events", "-n", "relays", "-o", "json"])?;
    for reason in ["AuthKeyMissing", "AuthKeyInvalid", "RelaysReady"] {
        ensure!(events.contains(reason), "no event says {reason}");
    }
    for secret in [wrong, deployment.rig.tailnet.auth_key()?] {
        let relay = deployment.object("peerrelay", name)?.to_string();
        let secret = secret.as_str();
        ensure!(
            !relay.contains(secret) && !events.contains(secret),
            "a key is in plain sight"
        );
    }
    deployment.delete(name)?;
    Ok(format!(
        "ready {} s after the right key",
        start.elapsed().as_secs()
    ))
}

fn stalled(deployment: &Deployment<'_>, name: &str, reason: &str) -> Result<()> {
    deployment.eventually(reason, || {
        let stalled = deployment.condition(name, "Stalled")?;
        ensure!(
            stalled == format!("True/{reason}"),
            "Stalled is '{stalled}'"
        );
        let ready = deployment.condition(name, "Ready")?;
        ensure!(ready == format!("False/{reason}"), "Ready is '{ready}'");
        Ok(())
    })
}

fn pods(deployment: &Deployment<'_>, name: &str) -> Result<Vec<(String, String)>> {
    let pods = deployment.list("pods", name)?;
    Ok(pods
        .iter()
        .map(|pod| {
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            (pod["metadata"]["name"].to_string(), restarts.to_string())
        })
        .collect())
}
