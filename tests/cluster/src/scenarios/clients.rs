//! What clients do while they use a relay.

use anyhow::{Result, ensure};

use super::{MINUTE, Scenario, is_relay, relayed, reset};
use crate::world::World;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a client that restarts is relayed again",
            run: restart,
        },
        Scenario {
            name: "a client behind a NAT that gives it a new port is relayed again",
            run: renumber,
        },
        Scenario {
            name: "a client without the grant gets no session, and the relay counts why",
            run: no_grant,
        },
    ]
}

fn restart(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    relayed(world)?;
    let sessions = world.metric("peerrelay_allocations_total{session=\"new\"}")?;
    c2.stop()?;
    c2.start()?;
    let (_, took) = world.wait_route(c1, c2, is_relay, MINUTE)?;
    let now = world.metric("peerrelay_allocations_total{session=\"new\"}")?;
    ensure!(
        now > sessions,
        "the new disco key has no session of its own"
    );
    Ok(format!("after {} s", took.as_secs()))
}

fn renumber(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    relayed(world)?;
    world.rig.network.renumber("c1")?;
    let (_, took) = world.wait_route(c2, c1, is_relay, MINUTE)?;
    Ok(format!("after {} s", took.as_secs()))
}

/// Control tells c3 of relays that know nothing of c3: what a client sees while a policy spreads.
fn no_grant(world: &World<'_>) -> Result<String> {
    reset(world)?;
    let (c1, c3) = (world.client("c1")?, world.client("c3")?);
    let policy = r#"{
      "tagOwners": {"tag:office": [], "tag:other": [], "tag:relay-office": []},
      "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
    }"#;
    world.rig.tailnet.write_policy(policy)?;
    world.eventually("relays know that nobody is granted", || {
        let granted = world.metric("peerrelay_granted_peers")?;
        ensure!(granted == 0.0, "{granted} are");
        Ok(())
    })?;
    let refused = world.metric("peerrelay_drops_total{reason=\"no_grant\"}")?;
    let allocated = world.metric("peerrelay_allocations_total")?;
    world.rig.tailnet.set_attribute("c3", "rig-misled", true)?;
    let counted = world.eventually("a refusal is counted", || {
        // A ping makes the client look for paths.
        world.route(c3, c1)?;
        let now = world.metric("peerrelay_drops_total{reason=\"no_grant\"}")?;
        ensure!(now > refused, "no_grant stays at {now}");
        Ok(())
    });
    world.rig.tailnet.set_attribute("c3", "rig-misled", false)?;
    counted?;
    let now = world.metric("peerrelay_allocations_total")?;
    ensure!(now == allocated, "a session was given out");
    ensure!(!is_relay(&world.route(c3, c1)?), "c3 is relayed");
    Ok("no_grant counted, nothing allocated".into())
}
