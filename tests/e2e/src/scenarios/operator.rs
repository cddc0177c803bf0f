//! The operator: no needless writes, repairs, kills and foreign objects.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rig::{deployment::Deployment, names::OPERATOR_NAMESPACE, signals};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{EDGE, Scenario, reset};
use crate::audit;

/// Kinds of which each region has one; there is one ConfigMap more, with the policy.
const CHILDREN: &str = "daemonsets,configmaps,serviceaccounts,roles,rolebindings";

/// Time in which nothing may be written: several times that of a reconciliation.
const QUIET: Duration = Duration::from_secs(12);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an unchanged PeerRelay causes no write, not even by a new operator",
            run: unchanged,
        },
        Scenario {
            name: "changes by hand are reverted, and the objects of a removed region are deleted",
            run: drift,
        },
        Scenario {
            name: "the operator is killed at random moments and ends in the same state",
            run: killed,
        },
        Scenario {
            name: "an object of another owner is not changed, and the PeerRelay reports it",
            run: taken,
        },
    ]
}

fn unchanged(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    // Relays verify each other's addresses after they have become ready, which changes the status.
    let mut last = Value::Null;
    deployment.eventually("the status stays as it is", || {
        thread::sleep(Duration::from_secs(3));
        let verified = deployment.condition(EDGE, "EndpointsVerified")?;
        let now = settled(deployment)?;
        let same = std::mem::replace(&mut last, now.clone()) == now;
        ensure!(
            same && verified == "True/Verified",
            "EndpointsVerified is '{verified}'"
        );
        Ok(())
    })?;
    let before = versions(deployment, EDGE)?;
    let (status, sessions) = (settled(deployment)?, sessions(deployment)?);
    let since = OffsetDateTime::now_utc();
    // Metadata only: the operator reconciles and finds nothing to do.
    let annotation = format!("rig/annotated={}", since.unix_timestamp_nanos());
    deployment.annotate(EDGE, &annotation)?;
    signals::pause(QUIET)?;
    let mut writes = audit::operators_writes(deployment, since)?;
    ensure!(writes.is_empty(), "a reconciliation wrote {writes:?}");
    kill_operators(deployment)?;
    wait_for_operator(deployment)?;
    signals::pause(QUIET)?;
    writes = audit::operators_writes(deployment, since)?;
    // Relays report sessions that come and go, which changes the status.
    let counted = format!("patch peerrelays/{EDGE} status");
    if self::sessions(deployment)? != sessions {
        writes.retain(|write| *write != counted);
    }
    ensure!(writes.is_empty(), "a new operator wrote {writes:?}");
    ensure!(
        versions(deployment, EDGE)? == before,
        "another client wrote"
    );
    let now = settled(deployment)?;
    ensure!(now == status, "the status changed: {now} was {status}");
    Ok(format!(
        "{} objects untouched, no request to write in {} s",
        before.len(),
        2 * QUIET.as_secs()
    ))
}

fn sessions(deployment: &Deployment<'_>) -> Result<Value> {
    Ok(deployment.object("peerrelay", EDGE)?["status"]["sessions"].clone())
}

/// The status without the number of sessions, which relays report as it changes.
fn settled(deployment: &Deployment<'_>) -> Result<Value> {
    let mut status = deployment.object("peerrelay", EDGE)?["status"].clone();
    status["sessions"] = Value::Null;
    Ok(status)
}

fn drift(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let name = format!("{EDGE}-office");
    deployment
        .rig
        .kubectl(["delete", "configmap", &name, "-n", "relays"])?;
    let patch = r#"{"spec":{"template":{"spec":{"terminationGracePeriodSeconds":7}}}}"#;
    deployment.rig.kubectl([
        "patch",
        "daemonset",
        &name,
        "-n",
        "relays",
        "--type=merge",
        "-p",
        patch,
    ])?;
    deployment.soon("drift is repaired", || {
        deployment.object("configmap", &name)?;
        let set = deployment.object("daemonset", &name)?;
        let grace = &set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        ensure!(*grace == 30, "grace period is {grace}");
        Ok(())
    })?;
    let two = json!({"regions": [
        {"name": "office", "clients": ["tag:office"]},
        {"name": "spare", "clients": ["tag:office"],
         "placement": {"nodeSelector": {"peerrelay.dev/no-such-node": "true"}}},
    ]});
    deployment.apply(EDGE, &two)?;
    deployment.soon("both regions have their objects", || {
        let children = versions(deployment, EDGE)?.len();
        ensure!(children == 11, "{children} objects");
        Ok(())
    })?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.soon("the second region's objects are gone", || {
        let children = versions(deployment, EDGE)?;
        ensure!(
            children.len() == 6 && children.keys().all(|k| !k.ends_with("spare")),
            "{children:?}"
        );
        Ok(())
    })?;
    Ok("repaired and pruned".into())
}

fn killed(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let wanted = contents(deployment, EDGE)?;
    let mut kills = 0;
    let mut pauses = Pauses::new(deployment.seed);
    for _ in 0..3 {
        deployment
            .rig
            .kubectl(["delete", "peerrelay", EDGE, "-n", "relays", "--wait=false"])?;
        pauses.sleep();
        kill_operators(deployment)?;
        deployment.eventually("deletion ends", || {
            let left = deployment.rig.kubectl([
                "get",
                "peerrelays,pods",
                "-n",
                "relays",
                "-o",
                "name",
                "-l",
                "!rig",
            ])?;
            let left = left.lines().filter(|line| line.contains(EDGE)).count();
            ensure!(
                left == 0 && versions(deployment, EDGE)?.is_empty(),
                "{left} objects are left"
            );
            Ok(())
        })?;
        deployment.apply(EDGE, &json!({"port": 40_001}))?;
        pauses.sleep();
        kill_operators(deployment)?;
        deployment.apply(EDGE, &json!({}))?;
        pauses.sleep();
        kill_operators(deployment)?;
        kills += 3;
        deployment.wait_ready(EDGE)?;
        let now = contents(deployment, EDGE)?;
        ensure!(
            now == wanted,
            "another state: {now:?} instead of {wanted:?}"
        );
    }
    Ok(format!("{kills} times, seed {}", deployment.seed))
}

fn taken(deployment: &Deployment<'_>) -> Result<String> {
    let foreign = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "taken-office", "namespace": "relays"}, "data": {"mine": "yes"},
    });
    deployment.rig.apply(&foreign.to_string())?;
    deployment.apply(
        "taken",
        &json!({"port": 40_100, "monitoring": {"port": 9_540}}),
    )?;
    deployment.soon("the status says that the name is taken", || {
        let stalled = deployment.condition("taken", "Stalled")?;
        ensure!(stalled == "True/NameTaken", "Stalled is '{stalled}'");
        Ok(())
    })?;
    let data = deployment.object("configmap", "taken-office")?["data"].clone();
    ensure!(data == json!({"mine": "yes"}), "it was changed: {data}");
    deployment.delete("taken")?;
    deployment
        .rig
        .kubectl(["delete", "configmap", "taken-office", "-n", "relays"])?;
    Ok("NameTaken".into())
}

/// Resource version of each child.
fn versions(deployment: &Deployment<'_>, name: &str) -> Result<BTreeMap<String, String>> {
    let children = deployment.list(CHILDREN, name)?;
    Ok(children
        .iter()
        .map(|child| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, metadata) = (text(&child["kind"]), &child["metadata"]);
            // The DaemonSet's status changes with its pods; its generation with its spec.
            let version = match &*kind {
                "DaemonSet" => metadata["generation"].to_string(),
                _ => text(&metadata["resourceVersion"]),
            };
            (format!("{kind}/{}", text(&metadata["name"])), version)
        })
        .collect())
}

/// The content of each child, without fields that differ between two objects of the same content.
fn contents(deployment: &Deployment<'_>, name: &str) -> Result<BTreeMap<String, String>> {
    let children = deployment.list(CHILDREN, name)?;
    Ok(children
        .iter()
        .map(|child| {
            let name = child["metadata"]["name"].as_str().unwrap_or_default();
            let key = format!("{}/{name}", child["kind"].as_str().unwrap_or_default());
            // Keys of probes are new with each start of a relay.
            let mut data = child["data"].clone();
            if let Some(data) = data.as_object_mut() {
                data.remove("peers.yaml");
            }
            let body = [
                &child["spec"],
                &data,
                &child["rules"],
                &child["metadata"]["labels"],
            ];
            (key, format!("{body:?}"))
        })
        .collect())
}

/// Ends all operators at once.
pub(super) fn kill_operators(deployment: &Deployment<'_>) -> Result<()> {
    deployment.rig.kubectl([
        "delete",
        "pods",
        "-n",
        OPERATOR_NAMESPACE,
        "--all",
        "--force",
        "--grace-period=0",
        "--wait=false",
    ])?;
    Ok(())
}

fn wait_for_operator(deployment: &Deployment<'_>) -> Result<()> {
    deployment.eventually("an operator leads", || {
        let lease = deployment.rig.kubectl([
            "get",
            "lease",
            "peerrelay-operator",
            "-n",
            OPERATOR_NAMESPACE,
            "-o",
            "json",
        ])?;
        let lease: Value = serde_json::from_str(&lease)?;
        let holder = lease["spec"]["holderIdentity"]
            .as_str()
            .context("no operator leads")?;
        let pods =
            deployment
                .rig
                .kubectl(["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "name"])?;
        ensure!(pods.contains(holder), "{holder} is gone");
        Ok(())
    })
}

/// Random pauses below 1.5 s, drawn from a seed.
struct Pauses {
    state: u64,
}

impl Pauses {
    fn new(seed: u64) -> Self {
        Self {
            // Spread over all bits, and never zero, which xorshift would keep.
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn sleep(&mut self) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        thread::sleep(Duration::from_millis(self.state % 1_500));
    }
}
