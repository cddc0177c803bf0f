//! The relay by itself: control that goes away, and what a user may get wrong.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{command::program_in, deployment::Deployment};

use super::{
    EDGE, SEARCH, Scenario,
    held::Held,
    is_relay, relayed, reset,
    restarts::{STALL, longest},
};

const PORT: u16 = 7_001;
/// Program in the image, as the rig built it.
const PROGRAM: &str = "peerrelay";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a standalone relay that cannot work reports the fix",
            run: mistakes,
        },
        Scenario {
            name: "bound sessions carry data while the control server and DERP are down, \
                   and relays recover",
            run: control_lost,
        },
    ]
}

fn mistakes(deployment: &Deployment<'_>) -> Result<String> {
    let program = deployment.rig.program()?;
    let cases: [(&[&str], &str); 6] = [
        (
            &["relay", "--static-endpoint", "203.0.113.10"],
            "write 203.0.113.10:40000",
        ),
        (&["relay", "--tag", "office"], "must begin with 'tag:'"),
        (
            &["relay", "--config", "/nonexistent/relay.yaml"],
            "check the path and its permissions",
        ),
        (
            &["relay", "--state-dir", "/proc/nowhere"],
            "must be writable",
        ),
        (&["relay", "--ca-file", "/dev/null"], "give a PEM file"),
        (
            &["relay", "--control-url", "ftp://control.example.net"],
            "such as https://control.example.net",
        ),
    ];
    for (words, message) in cases {
        let output = program_in("prr-c3", &program).args(words).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{PROGRAM} {words:?} went well");
        ensure!(said.contains(message), "{PROGRAM} {words:?} said: {said}");
    }
    port_taken(deployment)?;
    Ok(format!("{} mistakes", cases.len() + 1))
}

/// A port that is taken is tried again, and taken over once it is free.
fn port_taken(deployment: &Deployment<'_>) -> Result<()> {
    let scratch = deployment.rig.scratch("standalone")?;
    let c3 = deployment.client("c3")?;
    let holder = deployment.probe(c3, &["occupy", "40000"])?;
    let state = scratch.join("state").display().to_string();
    let spec = rig::process::Spec::new(
        "standalone",
        c3.machine.namespace,
        &deployment.rig.program()?,
    )
    .args([
        "relay",
        "--state-dir",
        &state,
        "--control-url",
        "https://10.90.0.1",
    ])
    .args(["--ca-file", &deployment.rig.ca().display().to_string()])
    .args([
        "--auth-key-file",
        &deployment.rig.tailnet.auth_key_file().display().to_string(),
    ])
    .args([
        "--hostname",
        "standalone",
        "--metrics-addr",
        "127.0.0.1:9441",
    ]);
    let processes = deployment.rig.processes()?;
    let relay = processes.start(&spec)?;
    let ready = || {
        let mut curl = program_in(c3.machine.namespace, "curl");
        let output = curl
            .args(["-sS", "http://127.0.0.1:9441/readyz"])
            .output()?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let result = relay
        .wait_until(Duration::from_secs(20), || {
            let said = ready()?;
            ensure!(
                said.contains("HostPortConflict") && said.contains("--port"),
                "it says: {said}"
            );
            Ok(())
        })
        .and_then(|()| {
            holder.finish()?;
            relay.wait_until(Duration::from_secs(30), || {
                let said = ready()?;
                ensure!(said == "ok\n", "it says: {said}");
                Ok(())
            })
        });
    processes.stop("standalone")?;
    result.context("a relay whose port is taken")
}

fn control_lost(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;
    deployment.rig.tailnet.cut_off(true)?;
    let lost = deployment.eventually("relays say that control is gone", || {
        let ready = deployment.condition(EDGE, "TailnetConnected")?;
        ensure!(
            ready == "False/ControlUnreachable" || ready == "False/DerpUnreachable",
            "TailnetConnected is '{ready}'"
        );
        Ok(())
    });
    let forwarded = || deployment.metric("peerrelay_forwarded_bytes_total");
    let before = forwarded()?;
    thread::sleep(Duration::from_secs(3));
    let flowed = forwarded()? - before;
    deployment.rig.tailnet.cut_off(false)?;
    let back = Instant::now();
    lost?;
    ensure!(flowed > 0.0, "nothing flowed through the relays");
    deployment.wait_ready(EDGE)?;
    let ready = back.elapsed().as_secs();
    let trips = held.finish().context("the connection did not survive")?;
    ensure!(longest(&trips)? < STALL, "TCP stalled: {trips}");
    deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    Ok(format!("{trips}, ready {ready} s after control was back"))
}
