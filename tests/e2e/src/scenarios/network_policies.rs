//! Enforced NetworkPolicies: required traffic passes, and nothing else.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rig::{
    cluster::{Cluster, image::PAUSE},
    command::{program, run},
    deployment::Deployment,
    names::{NAMESPACE, OPERATOR_NAMESPACE},
    net::ROUTER_V4,
    network_policies::NetworkPolicies,
    state::repository,
    tailnet::LOGIN_SERVER,
};
use serde_json::{Value, json};

use super::{
    EDGE, Scenario,
    exposure::through,
    isolation::{CLOSED, restricted, where_enforced},
    vacant,
};

/// Name of a pod that belongs to no PeerRelay, from which addresses are probed.
const OUTSIDER: &str = "outsider";
/// The exit status of curl when its time is over.
const TIMED_OUT: &str = "exit status: 28";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "where NetworkPolicies are enforced, relays on the pod network relay and are scraped, \
                   and closed to everything else",
            run: relays,
        },
        Scenario {
            name: "an operator restricted by its NetworkPolicy leads and is scraped, and \
                   reaches only the API server",
            run: operator,
        },
    ]
}

fn relays(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let seen = where_enforced(deployment, || {
        restricted(deployment, || relays_among(deployment))
    });
    deployment
        .rig
        .kubectl(["delete", "pod", OUTSIDER, "--ignore-not-found"])?;
    deployment.delete(EDGE)?;
    seen
}

/// Allows metrics to pods only, then to none, then all traffic.
fn relays_among(deployment: &Deployment<'_>) -> Result<String> {
    let region = |policy: bool| {
        json!([{
            "name": "office", "clients": ["tag:office"],
            "exposure": {"type": "NodePort", "networkPolicy": policy},
        }])
    };
    deployment.apply(EDGE, &json!({"regions": region(true)}))?;
    deployment.wait_ready(EDGE)?;
    let route = through(deployment, &[":vni:".to_owned()])?;
    verified(deployment)?;
    let metrics = metrics(deployment)?;
    let inside = outsider(deployment)?;
    let outside = || Ok(deployment.client("c1")?.command("curl"));
    scraped(deployment, &metrics, inside)?;
    closed(&metrics, outside).context("from outside of the cluster")?;

    let unscraped = json!({"serviceMonitor": "Disabled"});
    deployment.apply(
        EDGE,
        &json!({"regions": region(true), "monitoring": unscraped}),
    )?;
    deployment.eventually(
        "metrics without a ServiceMonitor are closed to pods",
        || closed(&metrics, || Ok(inside_of(inside))),
    )?;
    through(deployment, &[":vni:".to_owned()])?;

    // The same requests pass without policies.
    deployment.apply(EDGE, &json!({"regions": region(false)}))?;
    deployment
        .rig
        .kubectl(["delete", "networkpolicy", CLOSED, "-n", NAMESPACE])?;
    deployment.eventually("everything is open without a policy", || {
        opened(&metrics, outside)?;
        opened(&metrics, || Ok(inside_of(inside)))
    })?;
    Ok(format!("{route}; {} addresses were asked", metrics.len()))
}

fn operator(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let enforced = NetworkPolicies::enforce(deployment.rig)?;
    let seen = operator_among(deployment).with_context(|| enforced.log());
    deployment
        .rig
        .kubectl(["delete", "pod", OUTSIDER, "--ignore-not-found"])?;
    let words = ["delete", "networkpolicy", "peerrelay-operator"];
    let place = ["-n", OPERATOR_NAMESPACE, "--ignore-not-found"];
    deployment.rig.kubectl(words.into_iter().chain(place))?;
    seen
}

fn operator_among(deployment: &Deployment<'_>) -> Result<String> {
    let inside = outsider(deployment)?;
    let outside = || Ok(deployment.client("c1")?.command("curl"));
    let elsewhere = [LOGIN_SERVER.to_owned()];
    let api = ["https://10.96.0.1:443/version".to_owned()];

    let (pod, metrics) = operator_pod(deployment)?;
    let own = Cluster::process_of_pod(&pod)?;
    opened(&elsewhere, || Ok(inside_of(own)))?;
    opened(&metrics, outside)?;

    deployment.rig.apply(&charts_own(deployment)?)?;
    // Open connections stay open, so pods are replaced.
    let workload = "deployment/peerrelay-operator";
    for words in [
        ["rollout", "restart", workload].as_slice(),
        &["rollout", "status", workload, "--timeout=90s"],
    ] {
        let place = ["-n", OPERATOR_NAMESPACE];
        deployment.rig.kubectl(words.iter().copied().chain(place))?;
    }
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    let mut found = None;
    deployment.eventually("the former operators are gone", || {
        found = Some(operator_pod(deployment)?);
        Ok(())
    })?;
    let (pod, metrics) = found.context("no operator")?;
    let own = Cluster::process_of_pod(&pod)?;
    scraped(deployment, &metrics, inside)?;
    deployment.eventually("the operator reaches the API server", || {
        opened(&api, || Ok(inside_of(own)))
    })?;
    closed(&metrics, outside).context("from outside of the cluster")?;
    closed(&elsewhere, || Ok(inside_of(own))).context("from the operator")?;
    Ok(format!("{pod} reconciles"))
}

/// The chart's policy for the operator, which is off by default, with the API server's addresses of
/// its Service and of itself.
fn charts_own(deployment: &Deployment<'_>) -> Result<String> {
    let addresses = ["10.96.0.1".to_owned(), ROUTER_V4.to_string()];
    let to = addresses.map(|address| json!({"ipBlock": {"cidr": format!("{address}/32")}}));
    let to = json!(to);
    let mut helm = program(deployment.rig.tools().program("helm"));
    helm.args(["template", "peerrelay-operator"])
        .arg(repository().join("charts/peerrelay-operator"))
        .args(["--namespace", OPERATOR_NAMESPACE])
        .args(["--set", "image.repository=peerrelay.dev/peerrelay"])
        .args(["--show-only", "templates/networkpolicy.yaml"])
        .args(["--set", "networkPolicy.enabled=true"])
        .arg("--set-json")
        .arg(format!("networkPolicy.apiServerTo={to}"));
    run(&mut helm)
}

/// Waits until a pod is let through to the metrics: what enforces the policies learns of a new pod by a watch, and
/// drops packets of pods that it does not know.
fn scraped(deployment: &Deployment<'_>, metrics: &[String], pod: i32) -> Result<()> {
    deployment.eventually("a pod outside of the PeerRelay may read metrics", || {
        opened(metrics, || Ok(inside_of(pod)))
    })
}

/// Waits until relays have bound through each other's addresses.
fn verified(deployment: &Deployment<'_>) -> Result<()> {
    deployment.eventually("relays reach each other", || {
        let is = deployment.condition(EDGE, "EndpointsVerified")?;
        ensure!(is == "True/Verified", "EndpointsVerified is '{is}'");
        Ok(())
    })
}

/// The metrics addresses of each relay, IPv4 and IPv6.
fn metrics(deployment: &Deployment<'_>) -> Result<Vec<String>> {
    let pods = deployment.list("pods", EDGE)?;
    let all: Vec<_> = pods.iter().flat_map(|pod| urls(pod, 9440)).collect();
    ensure!(all.len() == 4, "two relays have the addresses {all:?}");
    Ok(all)
}

/// The pod of an operator, and its metrics addresses.
fn operator_pod(deployment: &Deployment<'_>) -> Result<(String, Vec<String>)> {
    let text = deployment
        .rig
        .kubectl(["get", "pods", "-n", OPERATOR_NAMESPACE, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let pods = list["items"].as_array().context("no list")?;
    let leaving = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_string();
    let left = pods.iter().filter(leaving).count();
    ensure!(left == 0, "{left} operators are ending");
    let pod = pods.first().context("no operator")?;
    let name = pod["metadata"]["name"].as_str().context("no name")?;
    Ok((name.to_owned(), urls(pod, 8080)))
}

fn urls(pod: &Value, port: u16) -> Vec<String> {
    let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|address| address["ip"].as_str());
    addresses
        .map(|address| match address.contains(':') {
            true => format!("http://[{address}]:{port}/metrics"),
            false => format!("http://{address}:{port}/metrics"),
        })
        .collect()
}

/// Starts the pod outside of the PeerRelay, and returns the id of its process.
fn outsider(deployment: &Deployment<'_>) -> Result<i32> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": OUTSIDER, "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "pause", "image": PAUSE, "imagePullPolicy": "Never",
                "env": [{"name": "POD_NAME", "value": OUTSIDER}],
            }],
        },
    });
    deployment.rig.apply(&pod.to_string())?;
    let pod = format!("pod/{OUTSIDER}");
    deployment
        .rig
        .kubectl(["wait", "--for=condition=Ready", &pod, "--timeout=60s"])?;
    Cluster::process_of_pod(OUTSIDER)
}

/// curl in the network of a pod, by one of its processes.
fn inside_of(pid: i32) -> Command {
    let mut curl = program("nsenter");
    curl.arg(format!("--net=/proc/{pid}/ns/net"))
        .args(["--", "curl"]);
    curl
}

/// Fails unless all of these addresses answer.
fn opened(urls: &[String], curl: impl Fn() -> Result<Command>) -> Result<()> {
    for url in urls {
        ask(curl()?, url)?;
    }
    Ok(())
}

/// Fails if one of these addresses answers: blocked traffic gets no answer, not a refusal.
fn closed(urls: &[String], curl: impl Fn() -> Result<Command>) -> Result<()> {
    for url in urls {
        let Err(error) = ask(curl()?, url) else {
            bail!("{url} answers");
        };
        let said = format!("{error:#}");
        ensure!(said.contains(TIMED_OUT), "{said}");
    }
    Ok(())
}

/// Fails without an answer; its content does not matter.
fn ask(mut curl: Command, url: &str) -> Result<()> {
    curl.args(["-sS", "-k", "--noproxy", "*", "--max-time", "2", "-o"])
        .args(["/dev/null", url]);
    run(&mut curl).map(drop)
}
