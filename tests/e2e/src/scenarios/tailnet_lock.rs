//! Tailnet Lock: clients ignore devices that no trusted key has signed.

use anyhow::{Context, Result, ensure};
use rig::{
    auth_key::AuthKey,
    deployment::{Deployment, Route},
    tailnet::Client,
    wait::Wait,
};
use serde_json::json;

use super::{SEARCH, Scenario, reasons::stalled, relayed, vacant};

/// Wait until all clients follow a change of Tailnet Lock.
const FOLLOWED: Wait = Wait::new(5, 30);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "where Tailnet Lock is enabled, relays report the command that signs them, those with a \
               signed auth key need none, and clients use both",
        run: signed,
    }]
}

fn signed(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let c1 = deployment.client("c1")?;
    let status = c1.tailscale(["lock"])?;
    let key = word(&status, "tlpub:")?;
    let said = c1.tailscale(["lock", "init", "--confirm", "--gen-disablements=1", key])?;
    let secret = word(&said, "disablement-secret:")?;
    // A new PeerRelay: those that ran before Tailnet Lock was enabled have devices that it has signed.
    let [first, second] = ["locked", "signed"].map(|name| format!("{name}-{}", std::process::id()));
    let shown = followed(deployment, true)
        .and_then(|()| signed_by(deployment, c1, &first))
        .and_then(|shown| {
            Ok(format!(
                "{shown}; {}",
                with_signed_key(deployment, c1, &second)?
            ))
        });
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)?;
    let disabled = c1
        .tailscale(["lock", "disable", secret])
        .and_then(|_| followed(deployment, false));
    let shown = shown?;
    disabled.context("Tailnet Lock stays enabled")?;
    deployment.wait_ready(&second)?;
    deployment.delete(&second)?;
    Ok(shown)
}

/// Runs the commands that relays report, on a client with a trusted key.
fn signed_by(deployment: &Deployment<'_>, client: &Client, name: &str) -> Result<String> {
    deployment.apply(name, &json!({}))?;
    let message = stalled(deployment, name, "TailnetLockUnsigned")?;
    ensure!(
        message.contains("`tailscale lock sign nodekey:"),
        "the message does not name the command: {message}"
    );
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
    let reports = deployment.reports(name)?;
    for report in &reports {
        let message = report["status"]["message"].as_str().unwrap_or_default();
        let mut quoted = message.split('`');
        let command = quoted.nth(1).context("a relay reports no command")?;
        client.tailscale(command.split(' ').skip(1))?;
    }
    deployment.wait_ready(name)?;
    let address = relayed(deployment)?;
    deployment.delete(name)?;
    Ok(format!(
        "{} relays signed, then relayed by {address}",
        reports.len()
    ))
}

/// Lets relays join with an auth key that a client with a trusted key has signed.
fn with_signed_key(deployment: &Deployment<'_>, client: &Client, name: &str) -> Result<String> {
    let file = deployment.rig.tailnet.auth_key_file();
    let key = client.tailscale(["lock", "sign", &format!("file:{}", file.display())])?;
    ensure!(key.contains("--TL"), "the auth key has no credential");
    deployment.write_secret(&AuthKey::new(key.trim()))?;
    deployment.apply(name, &json!({}))?;
    deployment.wait_ready(name)?;
    let address = relayed(deployment)?;
    Ok(format!("with a signed auth key by {address}"))
}

/// Waits until all clients know whether Tailnet Lock is enabled.
fn followed(deployment: &Deployment<'_>, enabled: bool) -> Result<()> {
    let sentence = match enabled {
        true => "Tailnet Lock is ENABLED.",
        false => "Tailnet Lock is NOT enabled.",
    };
    FOLLOWED
        .until(sentence, || {
            for client in deployment.rig.tailnet.clients() {
                let status = client.tailscale(["lock"])?;
                let name = client.machine.name;
                ensure!(status.contains(sentence), "{name} says: {status}");
            }
            Ok(())
        })
        .map(drop)
}

/// The word of a text that begins with `prefix`.
fn word<'a>(text: &'a str, prefix: &str) -> Result<&'a str> {
    let mut words = text.split_whitespace();
    let found = words.find(|word| word.starts_with(prefix));
    found.with_context(|| format!("there is no {prefix} in {text:?}"))
}
