//! The rights of a relay's own token: its report and its configuration, and nothing else.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, ensure};
use rig::{cluster::Cluster, deployment::Deployment, names::NAMESPACE};
use serde_json::{Value, json};

use super::{EDGE, Scenario, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "a relay's own token gives access to its report and its configuration \
                   only",
        run: own_token,
    }]
}

fn own_token(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let on = |name: &str, node: &str| {
        json!({
            "name": name, "clients": ["tag:office"],
            "placement": {"nodeSelector": {"kubernetes.io/hostname": node}},
        })
    };
    let regions = [on("office", "n1"), on("lab", "n2")];
    deployment.apply(EDGE, &json!({"regions": regions}))?;
    deployment.wait_ready(EDGE)?;
    let mut own = Value::Null;
    let mut other = String::new();
    deployment.eventually("each region has its relay", || {
        let pods = deployment.list("pods", EDGE)?;
        let of = |region: &str| {
            let mut of = pods
                .iter()
                .filter(|pod| pod["metadata"]["labels"]["peerrelay.dev/region"] == region);
            let pod = of.next().context("no relay")?;
            ensure!(of.next().is_none(), "{region} has more than one relay");
            Ok(pod.clone())
        };
        own = of("office")?;
        let lab = of("lab")?;
        other = lab["metadata"]["name"].as_str().unwrap_or_default().into();
        Ok(())
    })?;
    let node = deployment.rig.nodes.first().context("no node")?;
    let own = own["metadata"]["name"].as_str().unwrap_or_default();
    let token = token(own)?;
    let (opened, closed) = (opened(own), closed(own, &other));
    for (method, path) in &opened {
        let (code, said) = deployment.ask_as(&token, method, path, "{}")?;
        ensure!(code == 200, "{method} {path}: {code} {said}");
    }
    for (method, path) in &closed {
        let (code, said) = deployment.ask_as(&token, method, path, "{}")?;
        ensure!(code == 403, "{method} {path}: {code} {said}");
    }
    let state = node
        .relay_state()
        .join(NAMESPACE)
        .join(format!("{EDGE}-office"));
    let mode = fs::metadata(&state)
        .with_context(|| format!("no state at {}", state.display()))?
        .permissions()
        .mode();
    ensure!(mode & 0o077 == 0, "others may read its keys: {mode:o}");
    Ok(format!(
        "{} requests let through, {} refused",
        opened.len(),
        closed.len()
    ))
}

/// The token in the file system of a relay.
fn token(pod: &str) -> Result<String> {
    let pid = Cluster::process_of_pod(pod)?;
    let file = format!("/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount/token");
    let token = fs::read_to_string(&file).context("the pod has no token")?;
    Ok(token.trim().to_owned())
}

fn opened(own: &str) -> Vec<(&'static str, String)> {
    let configuration = format!("configmaps?fieldSelector=metadata.name={EDGE}-office");
    vec![
        ("GET", core(&configuration)),
        ("PATCH", ours(&format!("relaynodes/{own}/status"))),
    ]
}

fn closed(own: &str, other: &str) -> Vec<(&'static str, String)> {
    vec![
        ("GET", core("secrets")),
        ("GET", core("secrets/tailnet-auth")),
        ("GET", core("configmaps")),
        ("GET", core(&format!("configmaps/{EDGE}-lab"))),
        ("GET", core(&format!("configmaps/{EDGE}-grants"))),
        ("PATCH", core(&format!("configmaps/{EDGE}-office"))),
        ("GET", core("pods")),
        ("POST", core("pods")),
        (
            "POST",
            core(&format!("serviceaccounts/{EDGE}-office/token")),
        ),
        ("POST", core(&format!("serviceaccounts/{EDGE}-lab/token"))),
        ("GET", "/api/v1/nodes".into()),
        ("GET", "/api/v1/nodes/n1".into()),
        ("PATCH", "/api/v1/nodes/n1".into()),
        ("GET", "/api/v1/namespaces".into()),
        ("GET", ours("peerrelays")),
        ("PATCH", ours(&format!("peerrelays/{EDGE}"))),
        ("PATCH", ours(&format!("peerrelays/{EDGE}/status"))),
        ("GET", ours("relaynodes")),
        ("GET", ours(&format!("relaynodes/{other}"))),
        ("PATCH", ours(&format!("relaynodes/{other}"))),
        ("PATCH", ours(&format!("relaynodes/{other}/status"))),
        ("DELETE", ours(&format!("relaynodes/{other}"))),
        ("DELETE", ours(&format!("relaynodes/{own}"))),
    ]
}

fn core(path: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{path}")
}

fn ours(path: &str) -> String {
    format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/{path}")
}
