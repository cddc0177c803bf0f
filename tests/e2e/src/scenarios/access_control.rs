//! Nodes whose kernel denies relays what their pods ask for, as profiles of AppArmor and SELinux do.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rig::{
    cluster::node::Directory,
    deployment::{Deployment, message},
    names::NAMESPACE,
};
use serde_json::Value;

use super::{
    EDGE, FALLBACK, Scenario,
    data_path::{all_report, paths_are, replace_pods},
    held::Held,
    relayed, reset,
    restarts::{continues, longest, pod_of, stays},
};

const PORT: u16 = 7_018;
/// Metric of a relay that can pin nothing.
const NOT_PINNED: &str = "peerrelay_data_path{path=\"kernel\",reason=\"NotPinned\"}";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "relays that may not write to the BPF file system forward in the kernel, report it \
                   with the remedy, and keep a TCP connection when they are replaced",
            run: no_pins,
        },
        Scenario {
            name: "a relay that may not write to its state directory is reported with the remedy, and \
                   starts once it may",
            run: no_state,
        },
    ]
}

/// Runs a part of a scenario on nodes that deny a directory.
fn denied(
    deployment: &Deployment<'_>,
    directory: Directory,
    run: impl FnOnce() -> Result<String>,
) -> Result<String> {
    let set = |writable| {
        let mut nodes = deployment.rig.nodes.iter();
        nodes.try_for_each(|node| node.set_writable(directory, writable))
    };
    set(false)?;
    let said = run();
    set(true)?;
    said
}

fn no_pins(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    paths_are(deployment, "Kernel")?;
    let said = denied(deployment, Directory::Bpf, || unpinned(deployment))?;
    replace_pods(deployment)?;
    deployment.wait_ready(EDGE)?;
    deployment.eventually("relays pin again", || {
        all_report(deployment, |status| {
            let reason = &status["dataPathReason"];
            ensure!(reason.is_null(), "a relay still says {reason}");
            Ok(())
        })
    })?;
    Ok(said)
}

fn unpinned(deployment: &Deployment<'_>) -> Result<String> {
    replace_pods(deployment)?;
    deployment.wait_ready(EDGE)?;
    deployment.eventually("relays report that they cannot pin", || {
        all_report(deployment, not_pinned)
    })?;
    let relays = deployment.metric(NOT_PINNED)?;
    ensure!(relays == 2.0, "{NOT_PINNED} is 1 for {relays} relays");

    relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;
    let session = relayed(deployment)?;
    let pod = pod_of(deployment, &session)?;
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    let delete = ["delete", "pod", "-n", NAMESPACE, name, "--wait=false"];
    deployment.rig.kubectl(delete)?;
    deployment.eventually("another pod has the session", || {
        let now = pod_of(deployment, &session)?;
        ensure!(now["metadata"]["name"] != name, "the pod is still there");
        continues(deployment, &now)
    })?;
    stays(deployment, &session, &relayed(deployment)?)?;
    let trips = held.finish().context("a TCP connection over the relay")?;
    // Nothing forwards until the next pod runs; after 6.5 s clients send by DERP as well.
    ensure!(longest(&trips)? < FALLBACK, "{trips}");
    Ok(format!(
        "{session}; on one connection while its relay is replaced: {trips}"
    ))
}

/// Checks that the kernel forwards for a relay that cannot pin anything, and that it names the remedy.
fn not_pinned(status: &Value) -> Result<()> {
    let message = status["dataPathMessage"].as_str().unwrap_or_default();
    ensure!(
        status["dataPath"] == "Kernel"
            && status["dataPathReason"] == "NotPinned"
            && message.contains("let the relay write below /sys/fs/bpf"),
        "a relay says {}, {}: {message}",
        status["dataPath"],
        status["dataPathReason"],
    );
    Ok(())
}

fn no_state(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let mut reported = None;
    denied(deployment, Directory::State, || {
        replace_all(deployment)?;
        let start = Instant::now();
        let mut said = String::new();
        deployment.eventually("the PeerRelay reports the directory", || {
            let relay = deployment.object("peerrelay", EDGE)?;
            for (kind, wanted) in [("Ready", "False"), ("Stalled", "True")] {
                let is = rig::deployment::condition(&relay, kind);
                let wanted = format!("{wanted}/StateDirectoryUnusable");
                ensure!(is == wanted, "{kind} is '{is}'");
            }
            said = message(&relay, "Ready");
            Ok(())
        })?;
        reported = Some(start.elapsed());
        for words in ["/var/lib/peerrelay", "seLinuxOptions", "kubectl logs"] {
            ensure!(said.contains(words), "{words} is missing: {said}");
        }
        Ok(said)
    })?;
    // The kubelet waits longer after each crash; a new pod starts at once.
    replace_all(deployment)?;
    deployment.wait_ready(EDGE)?;
    let path = relayed(deployment)?;
    let seconds = reported.context("nothing was reported")?.as_secs();
    Ok(format!("reported after {seconds} s, then {path}"))
}

/// Deletes the relays' pods, and does not wait for new ones.
fn replace_all(deployment: &Deployment<'_>) -> Result<()> {
    let label = format!("peerrelay.dev/peer-relay={EDGE}");
    let delete = ["delete", "pods", "-n", NAMESPACE, "-l", &label];
    deployment.rig.kubectl(delete).map(drop)
}
