//! Sessions whose right ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::{deployment::Deployment, wait::Wait};

use super::{Scenario, relayed, reset};

/// Wait until sessions without a grant have ended. By themselves they last for minutes.
const SOON: Wait = Wait::new(5, 10);

/// Seconds until node keys expire.
const IN: u32 = 3;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "sessions end within 10 s when the policy disables relays, and when the \
                   node keys of their clients expire",
        run: rights_end,
    }]
}

fn rights_end(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let nodes = tailnet.nodes()?;
    let relays = nodes.iter().filter(|node| node.peer_relay);
    let relays: Vec<_> = relays.map(|node| node.name.clone()).collect();
    ensure!(!relays.is_empty(), "no relay is in the tailnet");
    let clients = ["c1".to_owned(), "c2".to_owned()];
    let disable = |name: &str, set| tailnet.set_attribute(name, "disable-relay-server", set);
    // The control server sends no map when a key expires.
    let expire = |name: &str, set: bool| {
        if set {
            tailnet.expire_in(name, IN)
        } else {
            tailnet.expire(name, false)
        }
    };
    let mut seen = Vec::new();
    type Change<'a> = &'a dyn Fn(&str, bool) -> Result<()>;
    for (what, names, change) in [
        ("turned off", &relays[..], &disable as Change<'_>),
        ("expired", &clients, &expire),
    ] {
        relayed(deployment)?;
        ensure!(sessions(deployment)? > 0.0, "a path without a session");
        let all = |set| names.iter().try_for_each(|name| change(name, set));
        let ended = all(true).and_then(|()| none_left(deployment));
        all(false)?;
        let ended = ended.context(what)?;
        deployment.wait_ready(super::EDGE)?;
        relayed(deployment).with_context(|| format!("no longer {what}"))?;
        seen.push(format!("{what}: {:.1} s", ended.as_secs_f64()));
    }
    Ok(seen.join(", "))
}

/// Sessions of all relays, open or not.
fn sessions(deployment: &Deployment<'_>) -> Result<f64> {
    deployment.metric("peerrelay_sessions{")
}

/// Waits until the relays have no session, and returns the time that it took.
pub(super) fn none_left(deployment: &Deployment<'_>) -> Result<Duration> {
    SOON.until("the sessions have ended", || {
        let left = sessions(deployment)?;
        ensure!(left == 0.0, "{left} sessions are left");
        Ok(())
    })
}
