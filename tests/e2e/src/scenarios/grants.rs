//! The policy that the operator writes, on the control server of the rig.

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program_in, run_with_input},
    deployment::{Deployment, Route},
};
use serde_json::{Value, json};

use super::{EDGE, SEARCH, Scenario, THIRTY, is_relay, relayed, reset};

const IN_FORCE: &str = "GrantsInForce";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a missing grant is reported within 30 s, and the policy that the \
                   operator wrote restores the path within 30 s",
            run: removed,
        },
        Scenario {
            name: "the policy that the operator writes merges into an allow-all policy and into a \
                   least-privilege one, and deny tests only into the latter",
            run: merged,
        },
        Scenario {
            name: "a client without a device, one that may not use the relays, and the relays' tag on \
                   another device are named in the status",
            run: clients,
        },
        Scenario {
            name: "the status lists clients that have requested a session and clients that \
                   never have, also after relays were replaced",
            run: review,
        },
        Scenario {
            name: "a grant for everyone, or for other clients as well, is reported as too \
                   broad",
            run: broad,
        },
    ]
}

fn removed(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    in_force(deployment, "True/GrantsEffective")?;
    let written = written(deployment)?;
    ensure!(
        offline(deployment)? == written,
        "the program without a cluster says something else"
    );

    deployment
        .rig
        .tailnet
        .write_policy(&policy(&clients_only(), &json!({})))?;
    in_force(deployment, "False/GrantsMissing")?;
    let relay = deployment.object("peerrelay", EDGE)?;
    ensure!(
        relay["status"]["regions"][0]["grant"] == "Missing",
        "region: {}",
        relay["status"]["regions"][0]
    );
    let conditions = relay["status"]["conditions"].to_string();
    let fix = r#"{\"src\":[\"tag:office\"],\"dst\":[\"tag:relay-office\"]"#;
    ensure!(
        conditions.contains(fix),
        "the message does not give the line: {conditions}"
    );

    // Also a bound session ends with its grant.
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;

    deployment
        .rig
        .tailnet
        .write_policy(&policy(&clients_only(), &written))?;
    let (_, back) = deployment.wait_route(c1, c2, is_relay, THIRTY)?;
    in_force(deployment, "True/GrantsEffective")?;
    reset(deployment)?;
    Ok(format!(
        "relayed {:.1} s after the grant was written",
        back.as_secs_f64()
    ))
}

fn merged(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let allow_all = json!({"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]});
    let written = offline(deployment)?;
    ensure!(written["tests"].is_null(), "tests without being asked for");
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    for base in [&allow_all, &clients_only()] {
        tailnet.write_policy(&policy(base, &json!({})))?;
        in_force(deployment, "False/GrantsMissing")?;
        tailnet.write_policy(&policy(base, &written))?;
        in_force(deployment, "True/GrantsEffective")?;
        deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    }
    deployment.apply(EDGE, &json!({"grants": {"tests": "Deny"}}))?;
    deployment.eventually("the operator writes tests", || {
        let tests = &self::written(deployment)?["tests"];
        ensure!(tests.is_array(), "tests: {tests}");
        Ok(())
    })?;
    let tested = self::written(deployment)?;
    tailnet.write_policy(&policy(&clients_only(), &tested))?;
    let refused = tailnet.write_policy(&policy(&allow_all, &tested));
    let words = refused.err().context("allow-all took the tests")?;
    let words = format!("{words:#}");
    ensure!(
        words.contains("test(s) failed") && words.contains("tag:office:22"),
        "control says {words}"
    );
    in_force(deployment, "True/GrantsEffective")?;
    reset(deployment)?;
    Ok("merged into both; with tests into one".into())
}

fn clients(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    in_force(deployment, "True/GrantsEffective")?;
    let region = json!([{"name": "office", "clients": ["tag:office", "tag:other"]}]);
    deployment.apply(EDGE, &json!({"regions": region}))?;
    // Devices see no others without a rule, so relays do not see c3, which has the tag.
    in_force(deployment, "Unknown/ClientsNotSeen")?;
    said(deployment, "no device of tag:other;")?;
    let allow_all = json!({"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]});
    let grant = |sources: &[&str]| {
        let cap = json!({"tailscale.com/cap/relay": []});
        json!({"grants": [{"src": sources, "dst": ["tag:relay-office"], "app": cap}]})
    };
    let partly = policy(&allow_all, &grant(&["tag:office"]));
    tailnet.write_policy(&partly)?;
    in_force(deployment, "False/GrantsIncomplete")?;
    said(deployment, "devices of tag:other are in the tailnet")?;
    tailnet.write_policy(&policy(&allow_all, &grant(&["tag:office", "tag:other"])))?;
    in_force(deployment, "True/GrantsEffective")?;

    deployment.apply(EDGE, &json!({}))?;
    tailnet.write_policy(&partly)?;
    in_force(deployment, "True/GrantsEffective")?;
    tailnet.set_tags("c3", &["tag:other", "tag:relay-office"])?;
    let reported = in_force(deployment, "False/TagOnOtherDevices");
    tailnet.set_tags("c3", &["tag:other"])?;
    reported?;
    in_force(deployment, "True/GrantsEffective")?;
    reset(deployment)?;
    Ok("not seen, not granted, not alone with the tag".into())
}

/// Waits until the message of the condition has these words.
fn said(deployment: &Deployment<'_>, words: &str) -> Result<()> {
    deployment.eventually(words, || {
        let relay = deployment.object("peerrelay", EDGE)?;
        let all = relay["status"]["conditions"].as_array();
        let mut all = all.into_iter().flatten();
        let condition = all.find(|c| c["type"] == IN_FORCE);
        let message = condition.and_then(|c| c["message"].as_str()).unwrap_or("");
        ensure!(message.contains(words), "it says {message}");
        Ok(())
    })
}

fn review(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let region = json!([{"name": "office", "clients": ["tag:office", "tag:other"]}]);
    deployment.apply(EDGE, &json!({"regions": region}))?;
    relayed(deployment)?;
    let office_alone = |what: &str| {
        deployment.eventually(what, || {
            let relay = deployment.object("peerrelay", EDGE)?;
            let clients = &relay["status"]["regions"][0]["clients"];
            let (office, other) = (&clients[0], &clients[1]);
            ensure!(
                office["lastAsked"].is_string() && other["lastAsked"].is_null(),
                "clients: {clients}"
            );
            ensure!(
                office["devices"] == 2 && other["countedSince"].is_string(),
                "clients: {clients}"
            );
            Ok(())
        })
    };
    office_alone("c1 or c2 has asked, and c3 has not")?;
    deployment.rig.kubectl([
        "delete",
        "pods",
        "-n",
        "relays",
        "-l",
        "peerrelay.dev/peer-relay=edge",
    ])?;
    deployment.wait_ready(EDGE)?;
    office_alone("the same after relays were replaced")?;
    reset(deployment)?;
    Ok("tag:office has, tag:other has not".into())
}

fn broad(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    in_force(deployment, "True/GrantsEffective")?;
    for sources in [json!(["*"]), json!(["tag:office", "tag:other"])] {
        let grant = json!({
            "src": sources, "dst": ["tag:relay-office"], "app": {"tailscale.com/cap/relay": []},
        });
        let owners = json!({"tag:relay-office": ["autogroup:admin"]});
        let part = json!({"tagOwners": owners, "grants": [grant]});
        let wide = policy(&clients_only(), &part);
        deployment.rig.tailnet.write_policy(&wide)?;
        in_force(deployment, "False/GrantsTooBroad")?;
    }
    reset(deployment)?;
    in_force(deployment, "True/GrantsEffective")?;
    Ok("reported, and cleared again".into())
}

/// Waits until the condition is as wanted.
pub(super) fn in_force(deployment: &Deployment<'_>, wanted: &str) -> Result<()> {
    let probe = || {
        let found = deployment.condition(EDGE, IN_FORCE)?;
        ensure!(found == wanted, "it is '{found}'");
        Ok(())
    };
    let what = format!("{IN_FORCE} is {wanted}");
    THIRTY.until(&what, probe).map(drop)
}

/// The policy that the operator wrote.
fn written(deployment: &Deployment<'_>) -> Result<Value> {
    let map = deployment.object("configmap", &format!("{EDGE}-grants"))?;
    let relay = deployment.object("peerrelay", EDGE)?;
    let checksum = &map["data"]["checksum"];
    ensure!(
        relay["status"]["grants"]["checksum"] == *checksum && checksum.is_string(),
        "the status does not know checksum {checksum}"
    );
    Ok(serde_json::from_str(
        map["data"]["grants.json"]
            .as_str()
            .context("no grants.json")?,
    )?)
}

/// The policy that `peerrelay grants` prints for the same object in a file.
fn offline(deployment: &Deployment<'_>) -> Result<Value> {
    let object = deployment.peer_relay(EDGE, &json!({}))?.to_string();
    let mut program = program_in("prr-c3", deployment.rig.program()?);
    program.args(["grants", "-f", "-", "-o", "json"]);
    Ok(serde_json::from_str(&run_with_input(
        &mut program,
        object.as_bytes(),
    )?)?)
}

/// A policy that lets clients talk to each other, and no other devices.
pub(super) fn clients_only() -> Value {
    let clients = ["tag:office", "tag:other"];
    json!({"grants": [{"src": clients, "dst": clients, "ip": ["*"]}]})
}

/// A tailnet's policy with `part` merged in, as a person would.
pub(super) fn policy(base: &Value, part: &Value) -> String {
    let mut whole = base.clone();
    whole["tagOwners"] = json!({"tag:office": [], "tag:other": [], "tag:relay-office": []});
    for (tag, owner) in part["tagOwners"].as_object().into_iter().flatten() {
        whole["tagOwners"][tag] = owner.clone();
    }
    if let Some(added) = part["grants"].as_array() {
        let mut grants = base["grants"].as_array().cloned().unwrap_or_default();
        grants.extend(added.iter().cloned());
        whole["grants"] = json!(grants);
    }
    whole["tests"] = part["tests"].clone();
    whole.to_string()
}
