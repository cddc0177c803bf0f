//! Relays that are turned off or removed: clients get time to find others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    command::program_in,
    deployment::{Deployment, Route},
    names::NAMESPACE,
    process::{Spec, wait_until},
    tailnet::LOGIN_SERVER,
    wait::Wait,
};
use serde_json::{Value, json};

use super::{
    EDGE, FALLBACK, SEARCH, Scenario, held::Held, is_relay, regions::running, relayed, relayed_by,
    reset, restarts::longest, vacant,
};

const PORT: u16 = 7_004;
/// Name of a relay outside of Kubernetes.
const SWITCHED: &str = "switched";
/// The answer of a relay that is turned off.
const OFF: &str = "the relay is off";
/// Longest time that a relay stays after its withdrawal.
const LIMIT: Duration = Duration::from_secs(120);
/// Wait until a withdrawn relay's pod is removed.
const REMOVED: Wait = Wait::new(90, 150);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "with one relay fewer, a transfer leaves the withdrawn relay before its \
                   end, or at the limit",
            run: fewer,
        },
        Scenario {
            name: "a disabled PeerRelay is ready without relays, and its devices come back",
            run: disabled,
        },
        Scenario {
            name: "the relay of a cordoned node allocates no sessions, and does again \
                   afterwards",
            run: cordoned,
        },
        Scenario {
            name: "an empty port turns a relay off, and its configuration file turns it on \
                   and off",
            run: switched,
        },
    ]
}

fn placed(placement: &Value) -> Value {
    json!({"regions": [{
        "name": "office", "clients": ["tag:office"], "placement": placement,
    }]})
}

fn fewer(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let (stays, goes) = preferred(deployment)?;
    let only = json!({"maxRelays": 1, "nodeSelector": {"kubernetes.io/hostname": goes}});
    deployment.apply(EDGE, &placed(&only))?;
    deployment.wait_ready(EDGE)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed_by(deployment, |address| {
        is_on(deployment, address, goes).unwrap_or(false)
    })?;
    let held = Held::open(deployment, PORT)?;
    deployment.apply(EDGE, &placed(&json!({"maxRelays": 2})))?;
    deployment.eventually("both relays are ready", || {
        let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
        ensure!(relays == "2/2", "relays: {relays}");
        deployment.wait_ready(EDGE)
    })?;

    deployment.apply(EDGE, &placed(&json!({"maxRelays": 1})))?;
    let end = withdraw(deployment, goes)?;
    let on_other = |route: &Route| {
        is_relay(route) && is_on(deployment, &route.to_string(), &stays).unwrap_or(false)
    };
    let (route, found) = deployment.wait_route(c1, c2, on_other, SEARCH)?;
    let trips = held.finish().context("the connection did not survive")?;
    ensure!(longest(&trips)? < FALLBACK, "TCP stalled: {trips}");
    deployment.wait_ready(EDGE)?;
    deployment.delete(EDGE)?;
    Ok(format!(
        "withdrawn after {:.1} s, {} after {} s; {route} {} s later; on one connection {trips}",
        end.withdrawn.as_secs_f64(),
        if end.complete {
            "left and removed"
        } else {
            "removed at the limit"
        },
        end.removed.as_secs(),
        found.as_secs(),
    ))
}

/// The node that keeps its relay when one of two is removed, and the other one.
fn preferred(deployment: &Deployment<'_>) -> Result<(String, &'static str)> {
    deployment.apply(EDGE, &placed(&json!({"maxRelays": 1})))?;
    deployment.wait_ready(EDGE)?;
    let running = running(deployment)?;
    let stays = running.into_keys().next().context("no relay runs")?;
    let mut nodes = deployment.rig.nodes.iter().map(|node| node.machine.name);
    let goes = nodes.find(|name| *name != stays).context("one node")?;
    deployment.delete(EDGE)?;
    Ok((stays, goes))
}

/// The end of a relay that is not wanted any more.
struct Withdrawal {
    /// Time until the relay was withdrawn.
    withdrawn: Duration,
    /// True if clients had left the relay before it was removed.
    complete: bool,
    /// Time until the relay's pod was removed.
    removed: Duration,
}

/// Waits until the relay of a node is withdrawn and removed, which has just been asked for.
fn withdraw(deployment: &Deployment<'_>, node: &str) -> Result<Withdrawal> {
    let start = Instant::now();
    // The withdrawn relay may be gone a moment later, so this need not stay.
    wait_until(
        SEARCH.longest(),
        || true,
        || {
            let ready = deployment.condition(EDGE, "Ready")?;
            ensure!(ready == "False/RelaysWithdrawing", "Ready is '{ready}'");
            let report = report(deployment, node)?;
            let withdrawal = &report["status"]["withdrawal"];
            ensure!(!withdrawal.is_null(), "it reports no withdrawal");
            Ok(())
        },
    )
    .context("the relay is not withdrawn")?;
    let withdrawn = start.elapsed();
    let mut complete = false;
    let called = start.elapsed();
    let waited = REMOVED.until("the withdrawn relay is removed", || {
        if let Ok(report) = report(deployment, node) {
            complete |= report["status"]["withdrawal"]["complete"] == true;
        }
        let running = running(deployment)?;
        ensure!(!running.contains_key(node), "it runs: {running:?}");
        Ok(())
    })?;
    let removed = called + waited;
    ensure!(
        complete || removed >= LIMIT,
        "clients used the relay when it was removed after {} s",
        removed.as_secs()
    );
    Ok(Withdrawal {
        withdrawn,
        complete,
        removed,
    })
}

fn disabled(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.apply(EDGE, &json!({"enabled": true}))?;
    relayed(deployment)?;
    let before = devices(deployment)?;
    ensure!(!before.is_empty(), "no relay reports");
    deployment.apply(EDGE, &json!({"enabled": false}))?;
    let off = REMOVED.until("the PeerRelay is disabled and has no relays", || {
        let ready = deployment.condition(EDGE, "Ready")?;
        ensure!(ready == "True/Disabled", "Ready is '{ready}'");
        let running = running(deployment)?;
        ensure!(running.is_empty(), "relays run: {running:?}");
        Ok(())
    })?;
    let off = off.as_secs();
    let available = deployment.condition(EDGE, "RelaysAvailable")?;
    ensure!(
        available == "False/Disabled",
        "RelaysAvailable is '{available}'"
    );
    let relay = format!("peerrelay/{EDGE}");
    for kind in ["Ready", "RelaysAvailable=False"] {
        let condition = format!("--for=condition={kind}");
        let wait = ["wait", &condition, &relay, "-n", NAMESPACE, "--timeout=1s"];
        deployment.rig.kubectl(wait)?;
    }
    deployment.object("configmap", &format!("{EDGE}-grants"))?;
    deployment.object("daemonset", &format!("{EDGE}-office"))?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.wait_route(c1, c2, |route| *route == Route::Derp, SEARCH)?;

    deployment.apply(EDGE, &json!({"enabled": true}))?;
    let start = Instant::now();
    deployment.wait_ready(EDGE)?;
    let ready = start.elapsed();
    deployment.eventually("the same devices are back", || {
        let now = devices(deployment)?;
        ensure!(now == before, "{before:?} became {now:?}");
        Ok(())
    })?;
    let route = relayed(deployment)?;
    Ok(format!(
        "off after {off} s, on after {:.1} s, {} devices as before, {route}",
        ready.as_secs_f64(),
        before.len(),
    ))
}

fn cordoned(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let first = deployment
        .rig
        .nodes
        .first()
        .context("no node")?
        .machine
        .name;
    let withdrawn = |wanted: bool| {
        deployment.soon("the cordon reaches the relay", || {
            let report = report(deployment, first)?;
            let is = !report["status"]["withdrawal"].is_null();
            ensure!(is == wanted, "withdrawn: {is}");
            Ok(())
        })
    };
    let before = running(deployment)?;
    let start = Instant::now();
    deployment.rig.kubectl(["cordon", first])?;
    let reported = withdrawn(true);
    let took = start.elapsed();
    let after = running(deployment)?;
    let ready = deployment.condition(EDGE, "Ready")?;
    deployment.rig.kubectl(["uncordon", first])?;
    reported?;
    withdrawn(false)?;
    ensure!(after == before, "a cordon removed a relay");
    ensure!(ready == "True/RelaysReady", "Ready is '{ready}'");
    Ok(format!(
        "withdrawn {:.1} s after the cordon",
        took.as_secs_f64()
    ))
}

fn switched(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let dir = deployment.rig.scratch("switched")?;
    let file = dir.join("relay.yaml");
    let write = |port: Value| {
        let tailnet = &deployment.rig.tailnet;
        let config = json!({
            "controlURL": LOGIN_SERVER, "caFile": deployment.rig.ca(), "hostname": SWITCHED,
            "authKeyFile": tailnet.auth_key_file(), "stateDir": dir.join("state"),
            "metricsAddr": "127.0.0.1:9442", "port": port,
        });
        std::fs::write(&file, config.to_string()).context("failed to write a configuration")
    };
    let namespace = deployment.client("c3")?.machine.namespace;
    let says = |wanted: &str| {
        deployment.eventually("the relay has the wanted state", || {
            let mut curl = program_in(namespace, "curl");
            let output = curl
                .args(["-sS", "http://127.0.0.1:9442/readyz"])
                .output()?;
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(said.starts_with(wanted), "it says: {said}");
            Ok(())
        })
    };
    let device = || -> Result<Option<String>> {
        let nodes = deployment.rig.tailnet.nodes()?;
        let mut own = nodes.into_iter().filter(|node| node.name == SWITCHED);
        Ok(own.next().map(|node| node.key))
    };
    let processes = deployment.rig.processes()?;
    let spec = || {
        let path = file.display().to_string();
        let spec = Spec::new(SWITCHED, namespace, &deployment.rig.program()?);
        Ok::<_, anyhow::Error>(spec.args(["relay", "--config", &path]))
    };
    let shown = (|| {
        write(json!(""))?;
        processes.start(&spec()?)?;
        says(OFF)?;
        ensure!(device()?.is_none(), "a relay that is off has joined");
        write(json!(40_000))?;
        says("ok")?;
        let first = device()?.context("a relay that is on has not joined")?;
        write(json!(""))?;
        says(OFF)?;
        write(json!(40_000))?;
        says("ok")?;
        let again = device()?;
        ensure!(again == Some(first), "it came back as another device");
        // The environment wins over the file.
        processes.stop(SWITCHED)?;
        processes.start(&spec()?.env("PEERRELAY_PORT", ""))?;
        says(OFF)
    })();
    processes.stop(SWITCHED)?;
    shown.map(|()| "off, on, off, on; off by the environment".to_owned())
}

/// Name and node id of each relay's device, by Kubernetes node.
fn devices(deployment: &Deployment<'_>) -> Result<BTreeMap<String, (String, String)>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let device = |report: &Value| {
        let device = &report["status"]["tailnet"];
        let identity = (text(&device["name"]), text(&device["nodeID"]));
        (text(&report["spec"]["nodeName"]), identity)
    };
    Ok(deployment.reports(EDGE)?.iter().map(device).collect())
}

/// The report of the relay on a node.
fn report(deployment: &Deployment<'_>, node: &str) -> Result<Value> {
    let reports = deployment.reports(EDGE)?;
    let mut here = reports
        .into_iter()
        .filter(|r| r["spec"]["nodeName"] == node);
    here.next().context("the relay does not report")
}

/// Says whether an address of a relay is one of a node.
fn is_on(deployment: &Deployment<'_>, address: &str, node: &str) -> Result<bool> {
    let node = deployment.rig.nodes.iter().find(|n| n.machine.name == node);
    let node = node.context("no such node")?.machine;
    Ok([node.v4.to_string(), node.v6.to_string()]
        .iter()
        .any(|ip| address.contains(ip)))
}
