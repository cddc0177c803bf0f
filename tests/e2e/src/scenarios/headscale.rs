//! Headscale as the control server: auth keys bring the tags, and peers see each other only where the
//! policy lets them.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use rig::{
    auth_key::AuthKey,
    deployment::{Deployment, Route, message},
    headscale::{Device, Headscale, LOGIN_SERVER},
    names::NAMESPACE,
    wait::Wait,
};
use serde_json::{Value, json};

use super::{
    EDGE, SEARCH, Scenario, is_relay, oauth::allow_secrets, policy_file::PolicyFile,
    regions::running, relayed, reset, revoked::none_left, vacant,
};
use crate::evidence;

/// Wait for a path that clients have kept.
const SOON: Wait = Wait::new(3, 10);
/// Wait until a relay finds out that Headscale has deleted it, and registers again.
const REJOINED: Wait = Wait::new(70, 100);
const RELAY_TAG: &str = "tag:relay-office";
const SECRET: &str = "headscale-auth";
/// Name of the Secret with the API key.
const API_KEY: &str = "headscale-api";
/// A second PeerRelay.
const OTHER: &str = "other";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "relays join Headscale with the tag of their auth key, report a wrong tag with its fix, \
                   serve stock clients, outlast a restart of Headscale, and report device names \
                   that are taken",
            run: joined,
        },
        Scenario {
            name: "on Headscale, sessions end within 10 s after the only grant or their devices are removed, \
                   and a deleted relay joins again",
            run: revoked,
        },
        Scenario {
            name: "Headscale's policy check accepts what peerrelay grants merge wrote in every layout, \
                   and its policy lets stock clients use relays",
            run: merged,
        },
        Scenario {
            name: "with an API key, the operator merges its entries into Headscale's policy, and removes them \
                   with the PeerRelay",
            run: synced,
        },
        Scenario {
            name: "two PeerRelays serve two tailnets on the same nodes, and the end of one leaves the other as \
                   it is",
            run: two_tailnets,
        },
    ]
}

fn joined(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let headscale = Headscale::start(deployment.rig, &policy(true))?;
    let result = (|| {
        write_secret(deployment, &headscale.key("tag:other")?)?;
        apply(deployment)?;
        let said = stalled(deployment, "TagMissing")?;
        ensure!(
            said.contains(&format!("not {RELAY_TAG}")) && said.contains("headscale nodes tag"),
            "the message does not name the remedy: {said}"
        );
        let start = Instant::now();
        write_secret(deployment, &headscale.key(RELAY_TAG)?)?;
        deployment.wait_ready(EDGE)?;
        let mended = start.elapsed().as_secs();
        let relays = relays(&headscale)?;
        ensure!(
            relays.iter().all(|relay| relay.tags == [RELAY_TAG]),
            "devices: {relays:?}"
        );
        ensure!(
            deployment.condition(EDGE, "Stalled")?.is_empty(),
            "Stalled stays"
        );
        let (c1, c2) = headscale.clients();
        let (_, found) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;

        control_restarts(deployment, &headscale)?;
        names_taken(deployment)?;
        Ok(format!(
            "{} relays, ready {mended} s after the right key, relayed after {:.1} s",
            relays.len(),
            found.as_secs_f64()
        ))
    })();
    cleaned_up(deployment, &headscale, result)
}

/// Restarts Headscale, and fails unless sessions continue meanwhile and afterwards.
fn control_restarts(deployment: &Deployment<'_>, headscale: &Headscale<'_>) -> Result<()> {
    let (c1, c2) = headscale.clients();
    // Sessions that are not bound end by themselves, so only open ones count.
    let bound = || deployment.metric("peerrelay_sessions{state=\"open\"}");
    let revoked = || deployment.metric("peerrelay_sessions_closed_total{reason=\"revoked\"}");
    let before = bound()?;
    ensure!(before > 0.0, "no session is open");
    let revoked_before = revoked()?;
    headscale.stop()?;
    deployment.eventually("relays report that the control server is gone", || {
        let connected = deployment.condition(EDGE, "TailnetConnected")?;
        ensure!(
            connected.starts_with("False/"),
            "TailnetConnected is '{connected}'"
        );
        Ok(())
    })?;
    deployment.wait_route(c1, c2, is_relay, SOON)?;
    headscale.serve()?;
    deployment.wait_ready(EDGE)?;
    deployment.wait_route(c1, c2, is_relay, SOON)?;
    let revoked_now = revoked()?;
    ensure!(
        revoked_now == revoked_before,
        "{revoked_before} sessions were revoked before the restart, {revoked_now} after it"
    );
    deployment.eventually("sessions go on", || {
        let now = bound()?;
        ensure!(now >= before, "{now} of {before} sessions are open");
        Ok(())
    })
}

fn revoked(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let headscale = Headscale::start(deployment.rig, &policy(true))?;
    let result = (|| {
        write_secret(deployment, &headscale.key(RELAY_TAG)?)?;
        apply(deployment)?;
        deployment.wait_ready(EDGE)?;
        let (c1, c2) = headscale.clients();
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;

        headscale.write_policy(&policy(false))?;
        let grant = none_left(deployment)?;
        deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
        headscale.write_policy(&policy(true))?;
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;

        let all = headscale.devices()?;
        let clients: Vec<_> = all
            .iter()
            .filter(|d| ["c1", "c2"].contains(&&*d.name))
            .collect();
        ensure!(clients.len() == 2, "devices: {all:?}");
        for client in clients {
            headscale.delete(client)?;
        }
        let deleted = none_left(deployment)?;
        for client in [c1, c2] {
            client.join_anew()?;
        }
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;

        let before = relays(&headscale)?;
        for relay in &before {
            headscale.delete(relay)?;
        }
        let again = || {
            let now = relays(&headscale)?;
            let new = now.iter().all(|relay| !before.contains(relay));
            ensure!(new && now.len() == before.len(), "devices: {now:?}");
            Ok(())
        };
        REJOINED.until("deleted relays join again", again)?;
        deployment.wait_ready(EDGE)?;
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;
        Ok(format!(
            "ended {:.1} s after the grant, {:.1} s after the devices",
            grant.as_secs_f64(),
            deleted.as_secs_f64()
        ))
    })();
    cleaned_up(deployment, &headscale, result)
}

fn merged(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let headscale = Headscale::start(deployment.rig, &policy(false))?;
    let result = (|| {
        let relay = deployment.peer_relay(EDGE, &json!({"tailnet": tailnet(deployment)?}))?;
        let mut file = PolicyFile::new(deployment, "rig@")?;
        let mut accepted = 0;
        for layout in PolicyFile::layouts() {
            let merged = file.merge(layout, &relay, &["--tag-owner", "rig@"])?;
            headscale
                .check_policy(&file.path())
                .with_context(|| format!("Headscale refuses:\n{merged}"))?;
            accepted += 1;
        }
        headscale.set_policy(&file.path())?;
        write_secret(deployment, &headscale.key(RELAY_TAG)?)?;
        apply(deployment)?;
        deployment.wait_ready(EDGE)?;
        let (c1, c2) = headscale.clients();
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;
        Ok(format!(
            "{accepted} layouts accepted, relayed with the last one"
        ))
    })();
    cleaned_up(deployment, &headscale, result)
}

fn synced(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    allow_secrets(deployment, NAMESPACE, &[API_KEY])?;
    let headscale = Headscale::start(deployment.rig, &policy(false))?;
    let result = (|| {
        let file = PolicyFile::new(deployment, "rig@")?;
        file.write_base()?;
        headscale.set_policy(&file.path())?;
        let base = headscale.policy()?;
        // Headscale creates no key with a tag that the policy does not have.
        let owned = base.replace(
            "\"tag:other\":",
            &format!("{RELAY_TAG:?}: [\"rig@\"],\n    \"tag:other\":"),
        );
        file.write(&owned)?;
        headscale.set_policy(&file.path())?;
        write_secret(deployment, &headscale.key(RELAY_TAG)?)?;
        let key = json!({"apikey": headscale.api_key()?});
        deployment.write_secret_named(API_KEY, &key)?;
        let grants = json!({
            "sync": "Apply", "apiKey": {"secretName": API_KEY}, "tagOwners": ["rig@"],
        });
        let spec = json!({"tailnet": tailnet(deployment)?, "grants": grants});
        deployment.apply(EDGE, &spec)?;
        deployment.wait_ready(EDGE)?;
        deployment.soon("the policy has the entries", || {
            let synced = deployment.condition(EDGE, "PolicySynced")?;
            ensure!(synced == "True/PolicyUpToDate", "it is '{synced}'");
            Ok(())
        })?;
        let (c1, c2) = headscale.clients();
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;
        let merged = headscale.policy()?;
        let added = merged.lines().count() - owned.lines().count();
        ensure!(added == 6, "{added} lines were added:\n{merged}");
        deployment.delete(EDGE)?;
        let left = headscale.policy()?;
        ensure!(left == owned, "the policy is\n{left}");
        Ok(format!("{added} lines added and removed"))
    })();
    let gone = deployment.remove_secret_named(API_KEY);
    cleaned_up(deployment, &headscale, result).and_then(|seen| gone.map(|()| seen))
}

/// The rig's own tailnet has the first PeerRelay, Headscale's has the second one. Clients are in one tailnet at
/// a time.
fn two_tailnets(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let first = relayed(deployment)?;
    let pods = running(deployment)?;
    let headscale = Headscale::start(deployment.rig, &policy(true))?;
    let result = (|| {
        write_secret(deployment, &headscale.key(RELAY_TAG)?)?;
        let tailnet = tailnet(deployment)?;
        deployment.apply(OTHER, &json!({"tailnet": tailnet, "port": 40_300}))?;
        for name in [OTHER, EDGE] {
            deployment.wait_ready(name)?;
        }
        let (c1, c2) = headscale.clients();
        let by_second = |route: &Route| is_relay(route) && route.to_string().contains(":40300:");
        let (second, _) = deployment.wait_route(c1, c2, by_second, SEARCH)?;
        deployment.delete(OTHER)?;
        deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;
        deployment.wait_ready(EDGE)?;
        ensure!(
            running(deployment)? == pods,
            "relays of the other tailnet were replaced"
        );
        Ok(second.to_string())
    })();
    let result = result.map_err(|error| anyhow!("{error:#}\nHeadscale said:\n{}", headscale.log()));
    drop(headscale);
    let gone = deployment.delete(OTHER);
    let second = result?;
    gone?;
    let again = relayed(deployment)?;
    let secret = ["delete", "secret", SECRET, "-n", NAMESPACE];
    deployment.rig.kubectl(secret)?;
    Ok(format!("{first}, then {second}, then {again}"))
}

/// Devices of a second PeerRelay that request the names of the first one's get others, which the status
/// reports.
fn names_taken(deployment: &Deployment<'_>) -> Result<()> {
    let mut tailnet = tailnet(deployment)?;
    tailnet["hostnamePrefix"] = json!(EDGE);
    deployment.apply(OTHER, &json!({"tailnet": tailnet, "port": 40_300}))?;
    let reported = deployment.eventually("the status names its devices", || {
        let is = deployment.condition(OTHER, "TailnetConnected")?;
        let said = message(&deployment.object("peerrelay", OTHER)?, "TailnetConnected");
        let words = [
            "the names of 2",
            "instead of edge-n1",
            "tailnet.hostnamePrefix",
        ];
        let named = words.iter().all(|word| said.contains(word));
        ensure!(
            is == "True/DeviceNameTaken" && named,
            "TailnetConnected is '{is}': {said}"
        );
        Ok(())
    });
    let ready = reported.and_then(|()| deployment.wait_ready(OTHER));
    deployment.delete(OTHER)?;
    ready
}

/// Removes the objects of the scenario, and adds evidence and Headscale's log to an error.
fn cleaned_up(
    deployment: &Deployment<'_>,
    headscale: &Headscale<'_>,
    result: Result<String>,
) -> Result<String> {
    // The relays are deleted before the suite collects evidence.
    let result = result.with_context(|| {
        let seen = evidence::of(deployment);
        format!("{seen}\nHeadscale said:\n{}", headscale.log())
    });
    let gone = deployment.delete(EDGE).and(deployment.delete(OTHER));
    let secret = ["delete", "secret", SECRET, "-n", NAMESPACE];
    let secret = deployment.rig.kubectl(secret);
    result.and_then(|seen| gone.and(secret).map(|_| seen))
}

/// Clients see each other; the relay sees them only by its grant.
fn policy(granted: bool) -> Value {
    let mut grants = vec![json!({"src": ["tag:office"], "dst": ["tag:office"], "ip": ["*"]})];
    if granted {
        let app = json!({"tailscale.com/cap/relay": [{}]});
        grants.push(json!({"src": ["tag:office"], "dst": [RELAY_TAG], "app": app}));
    }
    let owner = json!(["rig@"]);
    let owners = json!({"tag:office": owner, "tag:other": owner, RELAY_TAG: owner});
    json!({"tagOwners": owners, "grants": grants})
}

fn apply(deployment: &Deployment<'_>) -> Result<()> {
    deployment.apply(EDGE, &json!({"tailnet": tailnet(deployment)?}))
}

fn tailnet(deployment: &Deployment<'_>) -> Result<Value> {
    Ok(json!({
        "authKey": {"secretName": SECRET},
        "controlURL": LOGIN_SERVER,
        "caBundle": std::fs::read_to_string(deployment.rig.ca())?,
    }))
}

fn write_secret(deployment: &Deployment<'_>, auth_key: &AuthKey) -> Result<()> {
    deployment.write_secret_named(SECRET, &json!({"authkey": auth_key.as_str()}))
}

/// Waits until the PeerRelay stalls for this reason, and gives the message.
fn stalled(deployment: &Deployment<'_>, reason: &str) -> Result<String> {
    deployment.eventually(reason, || {
        let stalled = deployment.condition(EDGE, "Stalled")?;
        ensure!(stalled == format!("True/{reason}"), "it is '{stalled}'");
        Ok(())
    })?;
    let relay = deployment.object("peerrelay", EDGE)?;
    Ok(relay["status"]["conditions"].to_string())
}

fn relays(headscale: &Headscale<'_>) -> Result<Vec<Device>> {
    let mut devices = headscale.devices()?;
    devices.retain(|device| !["c1", "c2"].contains(&&*device.name));
    Ok(devices)
}
