//! The policy that the operator writes, given to the real control server.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{EDGE, MINUTE, Scenario, THIRTY, is_relay, relayed, reset};
use crate::command::{program_in, run_with_input};
use crate::process::wait_until;
use crate::world::{Route, World};

const IN_FORCE: &str = "GrantsInForce";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "without its grant a PeerRelay says so within 30 s, and the policy that the \
                   operator wrote brings the path back within 30 s",
            run: removed,
        },
        Scenario {
            name: "a grant for everyone, or for others too, is said to be too broad",
            run: broad,
        },
    ]
}

fn removed(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    relayed(world)?;
    in_force(world, "True/GrantsEffective")?;
    let written = written(world)?;
    ensure!(
        offline(world)? == written,
        "the program without a cluster says something else"
    );

    world.rig.tailnet.write_policy(&policy(&json!({})))?;
    in_force(world, "False/GrantsMissing")?;
    let relay = world.object("peerrelay", EDGE)?;
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
    world.wait_route(c1, c2, |route| *route == Route::Derp, MINUTE)?;

    world.rig.tailnet.write_policy(&policy(&written))?;
    let (_, back) = world.wait_route(c1, c2, is_relay, THIRTY)?;
    in_force(world, "True/GrantsEffective")?;
    reset(world)?;
    Ok(format!(
        "relayed {:.1} s after the grant was written",
        back.as_secs_f64()
    ))
}

fn broad(world: &World<'_>) -> Result<String> {
    reset(world)?;
    in_force(world, "True/GrantsEffective")?;
    for sources in [json!(["*"]), json!(["tag:office", "tag:other"])] {
        let grant = json!({
            "src": sources, "dst": ["tag:relay-office"], "app": {"tailscale.com/cap/relay": []},
        });
        let owners = json!({"tag:relay-office": ["autogroup:admin"]});
        let wide = policy(&json!({"tagOwners": owners, "grants": [grant]}));
        world.rig.tailnet.write_policy(&wide)?;
        in_force(world, "False/GrantsTooBroad")?;
    }
    reset(world)?;
    in_force(world, "True/GrantsEffective")?;
    Ok("told, and taken back".into())
}

/// Waits until the condition is as wanted.
fn in_force(world: &World<'_>, wanted: &str) -> Result<()> {
    let probe = || {
        let found = world.condition(EDGE, IN_FORCE)?;
        ensure!(found == wanted, "it is '{found}'");
        Ok(())
    };
    wait_until(THIRTY, || true, probe).with_context(|| format!("{IN_FORCE} never was {wanted}"))
}

/// What the operator wrote.
fn written(world: &World<'_>) -> Result<Value> {
    let map = world.object("configmap", &format!("{EDGE}-grants"))?;
    let relay = world.object("peerrelay", EDGE)?;
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

/// What the program says of the same object from a file.
fn offline(world: &World<'_>) -> Result<Value> {
    let object = world.peer_relay(EDGE, &json!({}))?.to_string();
    let mut program = program_in("prr-c3", world.rig.program()?);
    program.args(["grants", "-f", "-", "-o", "json"]);
    Ok(serde_json::from_str(&run_with_input(
        &mut program,
        object.as_bytes(),
    )?)?)
}

/// The rig's own policy with `part` merged in, as a person would.
fn policy(part: &Value) -> String {
    let mut owners = json!({"tag:office": [], "tag:other": [], "tag:relay-office": []});
    for (tag, owner) in part["tagOwners"].as_object().into_iter().flatten() {
        owners[tag] = owner.clone();
    }
    let mut grants = vec![json!({"src": ["*"], "dst": ["*"], "ip": ["*"]})];
    grants.extend(part["grants"].as_array().cloned().unwrap_or_default());
    json!({"tagOwners": owners, "grants": grants, "tests": part["tests"]}).to_string()
}
