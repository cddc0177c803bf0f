//! Auth keys that are missing or wrong.

use std::time::Instant;

use anyhow::{Result, ensure};
use rig::auth_key::AuthKey;
use rig::world::World;
use serde_json::json;

use super::{EDGE, Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a missing and a wrong auth key stall with their reason, and the right one recovers",
        run: keys,
    }]
}

fn keys(world: &World<'_>) -> Result<String> {
    world.delete(EDGE)?;
    // Devices that have joined before need no key, so these are new ones.
    let name = &format!("keys-{}", std::process::id());
    world.remove_secret()?;
    world.apply(name, &json!({}))?;
    stalled(world, name, "AuthKeyMissing")?;
    let wrong = AuthKey::new("tskey-auth-wrong");
    world.write_secret(&wrong)?;
    stalled(world, name, "AuthKeyInvalid")?;
    let pods = pods(world, name)?;
    world.write_secret(&world.rig.tailnet.auth_key())?;
    let start = Instant::now();
    world.wait_ready(name)?;
    ensure!(self::pods(world, name)? == pods, "relays were restarted");
    ensure!(
        world.condition(name, "Stalled")?.is_empty(),
        "Stalled stays"
    );
    let events = world
        .rig
        .kubectl(["get", "events", "-n", "relays", "-o", "json"])?;
    for reason in ["AuthKeyMissing", "AuthKeyInvalid", "RelaysReady"] {
        ensure!(events.contains(reason), "no event says {reason}");
    }
    for secret in [wrong, world.rig.tailnet.auth_key()] {
        let relay = world.object("peerrelay", name)?.to_string();
        let secret = secret.as_str();
        ensure!(
            !relay.contains(secret) && !events.contains(secret),
            "a key is in plain sight"
        );
    }
    world.delete(name)?;
    Ok(format!(
        "ready {} s after the right key",
        start.elapsed().as_secs()
    ))
}

fn stalled(world: &World<'_>, name: &str, reason: &str) -> Result<()> {
    world.eventually(reason, || {
        let stalled = world.condition(name, "Stalled")?;
        ensure!(
            stalled == format!("True/{reason}"),
            "Stalled is '{stalled}'"
        );
        let ready = world.condition(name, "Ready")?;
        ensure!(ready == format!("False/{reason}"), "Ready is '{ready}'");
        Ok(())
    })
}

fn pods(world: &World<'_>, name: &str) -> Result<Vec<(String, String)>> {
    let pods = world.list("pods", name)?;
    Ok(pods
        .iter()
        .map(|pod| {
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            (pod["metadata"]["name"].to_string(), restarts.to_string())
        })
        .collect())
}
