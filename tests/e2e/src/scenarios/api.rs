//! Auth keys, OAuth clients and devices of the tailnet's API, with stock clients and relays.

use std::process;

use anyhow::{Context, Result, ensure};
use rig::{
    command::run,
    deployment::Deployment,
    tailnet::{Client, LOGIN_SERVER, MintedKey, NewKey, User},
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an auth key for one device admits one relay, and relays whose devices are deleted \
                   are in no network map",
            run: one_device,
        },
        Scenario {
            name: "a stock client joins with the secret of an OAuth client, as a device with its tag",
            run: oauth_secret,
        },
    ]
}

fn one_device(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.delete(EDGE)?;
    let tailnet = &deployment.rig.tailnet;
    let api = tailnet.api(User::Admin)?;
    let key = NewKey::single_use().with_tags(&["tag:relay-office"]);
    deployment.write_secret(&api.mint(&key)?)?;
    // Devices that have joined before need no key, so these are new ones.
    let name = &format!("minted-{}", process::id());
    deployment.apply(name, &json!({}))?;
    deployment.eventually("one relay is refused", || {
        let mut reasons: Vec<_> = deployment.reports(name)?;
        reasons.retain(|report| report["status"]["reason"] == "AuthKeyInvalid");
        ensure!(reasons.len() == 1, "{} relays are refused", reasons.len());
        Ok(())
    })?;
    let keys: Vec<MintedKey> = api.keys()?;
    let spent = keys
        .iter()
        .find(|key| key.tags == ["tag:relay-office"] && !key.reusable);
    let spent = spent.context("the key is gone")?;
    ensure!(spent.is_spent() && spent.devices.len() == 1, "{spent:?}");
    deployment.write_secret(&tailnet.auth_key()?)?;
    deployment.wait_ready(name)?;

    let client = deployment.client("c1")?;
    let relays = |client: &Client| -> Result<usize> {
        let status = client.status()?;
        let peers = status["Peer"].as_object().into_iter().flatten();
        let tagged = |peer: &Value| peer["Tags"].to_string().contains("tag:relay-office");
        Ok(peers.filter(|(_, peer)| tagged(peer)).count())
    };
    let seen = relays(client)?;
    let devices = api.devices()?;
    let deleted = devices
        .iter()
        .filter(|device| device.name.contains(&**name));
    let deleted: Vec<_> = deleted.map(|device| &device.node_id).collect();
    ensure!(
        deleted.len() == deployment.rig.nodes.len(),
        "the relays have {} devices",
        deleted.len()
    );
    deployment.delete(name)?;
    deleted.iter().try_for_each(|id| api.delete_device(id))?;
    deployment.eventually("the relays are gone from the client's map", || {
        let left = relays(client)?;
        ensure!(left + deleted.len() == seen, "{left} of {seen} are left");
        Ok(())
    })?;
    Ok(format!("{} devices deleted", deleted.len()))
}

fn oauth_secret(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let client = deployment.client("c3")?;
    let api = deployment.rig.tailnet.api(User::Admin)?;
    let before = api.devices()?;
    let oauth = api.oauth_client(&["auth_keys"], &["tag:other"])?;
    let joined = join_with_secret(deployment, client, &oauth.secret);
    let seen = joined.and_then(|()| {
        let devices = api.devices()?;
        let known = |id: &str| before.iter().any(|device| device.node_id == id);
        let mut new = devices.into_iter().filter(|device| !known(&device.node_id));
        let device = new.next().context("no device has joined")?;
        ensure!(device.tags == ["tag:other"], "{device:?}");
        let keys = api.keys()?;
        let key = keys.iter().find(|key| key.client == oauth.id);
        let key = key.context("the client has made no key")?;
        ensure!(
            key.is_spent() && key.devices == [device.node_id.clone()],
            "{key:?}"
        );
        Ok(device.node_id)
    });
    client.join_anew()?;
    let own = client.status()?["Self"]["ID"].clone();
    for device in api.devices()? {
        if device.name.starts_with("c3.") && own != device.node_id.as_str() {
            api.delete_device(&device.node_id)?;
        }
    }
    let device = seen?;
    api.revoke(&oauth.id)?;
    Ok(format!("it was {device}"))
}

/// Joins as Tailscale's command line does with such a secret: it asks the API for a key itself.
fn join_with_secret(deployment: &Deployment<'_>, client: &Client, secret: &str) -> Result<()> {
    let file = deployment.rig.scratch("oauth-secret")?.join("secret");
    let base = LOGIN_SERVER.trim_end_matches(":443");
    let text = format!("{secret}?ephemeral=false&preauthorized=true&baseURL={base}");
    std::fs::write(&file, text)?;
    let mut tailscale = client.tailscale_command();
    tailscale
        .env("SSL_CERT_FILE", deployment.rig.ca())
        .env("SSL_CERT_DIR", "/nonexistent")
        .args([
            "up",
            "--force-reauth",
            "--accept-dns=false",
            "--timeout=30s",
        ])
        .arg(format!("--login-server={LOGIN_SERVER}"))
        .arg(format!("--auth-key=file:{}", file.display()))
        .args(["--hostname=c3", "--advertise-tags=tag:other"]);
    run(&mut tailscale).map(drop)
}
