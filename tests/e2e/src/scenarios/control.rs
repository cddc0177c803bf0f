//! A control server that ends map streams, or asks relays to wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::Deployment,
    signals,
    tailnet::{Fault, NodeStatus, User},
};

use super::{EDGE, Scenario, observed, relayed, reset};

/// Time for which streams end after their first map.
const AT_ONCE: Duration = Duration::from_secs(20);
/// Most streams that a relay may open in [`AT_ONCE`]: waits double from half a second, and vary by half.
const MOST_STREAMS: u32 = 9;
/// Age of streams that end again and again, and the time for which they do.
const AGE: Duration = Duration::from_secs(12);
const AGED: Duration = Duration::from_secs(28);
/// Wait that control asks for, in seconds, and the time for which it does.
const ASKED: u32 = 5;
const REFUSED: Duration = Duration::from_secs(15);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "relays stay ready while control ends each map stream, after the first map or later, \
                   and connect less and less often to one that does at once",
            run: ended,
        },
        Scenario {
            name: "relays that control asks to wait, at registration or for maps, wait that long, report \
                   it, and are ready afterwards",
            run: asked_to_wait,
        },
    ]
}

fn ended(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let path = relayed(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let mut said = Vec::new();
    for (age, time) in [(Duration::from_millis(1), AT_ONCE), (AGE, observed(AGED))] {
        let before = streams(deployment)?;
        tailnet.end_relay_streams(Some(age))?;
        let watched = stays_ready(deployment, time);
        let after = streams(deployment)?;
        tailnet.end_relay_streams(None)?;
        let writes = watched?;
        let opened: BTreeMap<_, _> = after
            .iter()
            .map(|(name, count)| (name, count - before.get(name).unwrap_or(&0)))
            .collect();
        ensure!(
            opened.values().all(|count| *count > 1),
            "streams did not end: {opened:?}"
        );
        if time == AT_ONCE {
            ensure!(
                opened.values().all(|count| *count <= MOST_STREAMS),
                "attempts do not become rarer: {opened:?}"
            );
        }
        let opened: Vec<_> = opened.into_values().collect();
        said.push(format!(
            "age {} s: {opened:?} streams and {writes} writes of RelayNodes in {} s",
            age.as_secs(),
            time.as_secs()
        ));
    }
    // A change of the policy still arrives.
    let now = relayed(deployment)?;
    Ok(format!("{}; {path}, then {now}", said.join(", ")))
}

/// Checks for some time that relays and PeerRelay are ready, and that relays do not write their RelayNodes
/// more often than without that. Returns the number of writes.
fn stays_ready(deployment: &Deployment<'_>, time: Duration) -> Result<usize> {
    let start = Instant::now();
    let mut versions = BTreeSet::new();
    let mut relays = 0;
    while start.elapsed() < time {
        signals::check()?;
        let reports = deployment.reports(EDGE)?;
        relays = reports.len();
        for report in reports {
            let name = report["metadata"]["name"].to_string();
            ensure!(
                report["status"]["ready"] == true,
                "{name} is not ready: {}",
                report["status"]["message"]
            );
            versions.insert((name, report["metadata"]["resourceVersion"].to_string()));
        }
        let ready = deployment.condition(EDGE, "Ready")?;
        ensure!(ready == "True/RelaysReady", "Ready is '{ready}'");
        thread::sleep(Duration::from_millis(300));
    }
    let writes = versions.len() - relays;
    // Numbers of sessions are written once a minute, and each report once in five minutes.
    let minutes = usize::try_from(time.as_secs().div_ceil(60))?;
    let most = relays * (2 * minutes + 1);
    ensure!(
        writes <= most,
        "{writes} writes in {} s, at most {most} are usual",
        time.as_secs()
    );
    Ok(writes)
}

/// Number of map streams that each relay has opened.
fn streams(deployment: &Deployment<'_>) -> Result<BTreeMap<String, u32>> {
    let nodes = deployment.rig.tailnet.nodes()?;
    let is_relay = |node: &NodeStatus| node.peer_relay && node.name.starts_with(EDGE);
    let relays = nodes.into_iter().filter(is_relay);
    let relays: BTreeMap<_, _> = relays.map(|node| (node.name, node.streams)).collect();
    ensure!(!relays.is_empty(), "no relay is in the tailnet");
    Ok(relays)
}

fn asked_to_wait(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let tailnet = &deployment.rig.tailnet;
    let api = tailnet.api(User::Admin)?;
    let mut said = Vec::new();
    for path in ["/machine/map", "/machine/register"] {
        api.clear_faults()?;
        api.inject(&Fault::path("POST", path).limits_rate(ASKED))?;
        // The streams that are open end, and attempts to open others are refused.
        tailnet.end_relay_streams(Some(Duration::from_millis(1)))?;
        let observed = refused(deployment);
        let failed = api.failed_requests();
        tailnet.end_relay_streams(None)?;
        api.clear_faults()?;
        observed?;
        let failed = failed?;
        ensure!(failed > 0, "{path}: no request was refused");
        // Each of the two relays may try again after each wait; clients that ask meanwhile count too.
        let most = 2 * (REFUSED.as_secs() / u64::from(ASKED) + 2);
        ensure!(
            failed <= most,
            "{path}: {failed} requests in {} s, at most {most} respect the wait",
            REFUSED.as_secs()
        );
        let start = Instant::now();
        deployment.wait_ready(EDGE)?;
        said.push(format!(
            "{path}: {failed} requests refused, ready {:.1} s later",
            start.elapsed().as_secs_f64()
        ));
    }
    let path = relayed(deployment).context("after the waits")?;
    Ok(format!("{}; {path}", said.join(", ")))
}

/// Waits until each relay reports the wait that control asks for, and for some time more.
fn refused(deployment: &Deployment<'_>) -> Result<()> {
    let start = Instant::now();
    let wanted = format!("asks to wait {ASKED} s");
    deployment.soon("relays report that they wait", || {
        for report in deployment.reports(EDGE)? {
            let status = &report["status"];
            let message = status["message"].as_str().unwrap_or_default();
            ensure!(
                status["reason"] == "ControlUnreachable" && message.contains(&wanted),
                "a relay says '{message}'"
            );
        }
        Ok(())
    })?;
    thread::sleep(REFUSED.saturating_sub(start.elapsed()));
    Ok(())
}
