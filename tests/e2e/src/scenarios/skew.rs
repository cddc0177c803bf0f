//! Operator and relays of different versions.

use anyhow::{Context, Result, ensure};
use rig::{deployment::Deployment, names::NAMESPACE};
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

/// A field that no version has.
const FIELD: &str = "quantumDepth";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a relay that restarts with the configuration of a newer operator warns and works",
        run: newer_configuration,
    }]
}

fn newer_configuration(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    // The operator would put the ConfigMap back.
    deployment.apply(EDGE, &json!({"paused": true}))?;
    deployment.soon("the operator has seen the pause", || {
        let object = deployment.object("peerrelay", EDGE)?;
        let seen = &object["status"]["observedGeneration"];
        ensure!(*seen == object["metadata"]["generation"], "seen is {seen}");
        Ok(())
    })?;
    let name = format!("{EDGE}-office");
    let map = deployment.object("configmap", &name)?;
    let text = map["data"]["relay.yaml"]
        .as_str()
        .context("no relay.yaml")?;
    let data = json!({"data": {"relay.yaml": format!("{}\n{FIELD}: 7\n", text.trim_end())}});
    deployment.rig.kubectl([
        "patch",
        "configmap",
        &name,
        "-n",
        NAMESPACE,
        "--type=merge",
        "-p",
        &data.to_string(),
    ])?;
    let before = deployment.list("pods", EDGE)?;
    let pod = name_of(before.first().context("no relay runs")?)?.to_owned();
    deployment
        .rig
        .kubectl(["delete", "pod", &pod, "-n", NAMESPACE, "--wait=false"])?;
    let mut warning = String::new();
    deployment.eventually("the next relay is ready and has warned", || {
        let now = deployment.list("pods", EDGE)?;
        let is_new = |pod: &&Value| {
            name_of(pod).is_ok_and(|name| before.iter().all(|b| name_of(b).ok() != Some(name)))
        };
        let next = now.iter().find(is_new).context("there is no other pod")?;
        let ready = &next["status"]["containerStatuses"][0]["ready"];
        ensure!(*ready == true, "it is not ready");
        let log = deployment
            .rig
            .kubectl(["logs", "-n", NAMESPACE, name_of(next)?])?;
        let line = log
            .lines()
            .find(|line| line.contains("unknown configuration field") && line.contains(FIELD));
        warning = line.context("the log has no warning")?.to_owned();
        Ok(())
    })?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.soon("the operator's configuration is back", || {
        let map = deployment.object("configmap", &name)?;
        let text = map["data"]["relay.yaml"].as_str().unwrap_or_default();
        ensure!(!text.contains(FIELD), "it still has {FIELD}");
        Ok(())
    })?;
    deployment.wait_ready(EDGE)?;
    Ok(warning)
}

fn name_of(pod: &Value) -> Result<&str> {
    pod["metadata"]["name"].as_str().context("a pod has a name")
}
