//! Exposure of relays by NodePorts and load balancers.

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::{Deployment, Route},
    metallb::MetalLb,
};
use serde_json::{Value, json};

use super::{
    EDGE, SEARCH, Scenario, is_relay,
    isolation::{restricted, where_enforced},
    vacant,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "clients reach relays through a NodePort under Pod Security restricted",
            run: node_port,
        },
        Scenario {
            name: "each relay gets a LoadBalancer address, and starts only afterwards",
            run: load_balancer,
        },
        Scenario {
            name: "relays share one LoadBalancer address, each with its own port, also where NetworkPolicies \
                   are enforced",
            run: shared_address,
        },
    ]
}

fn node_port(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let behind = json!({"regions": [{
        "name": "office", "clients": ["tag:office"],
        "exposure": {"type": "NodePort", "networkPolicy": true},
    }]});
    let seen = restricted(deployment, || {
        deployment.apply(EDGE, &behind)?;
        deployment.wait_ready(EDGE)?;
        let service = deployment.object("service", &format!("{EDGE}-office"))?;
        let port = &service["spec"]["ports"][0]["nodePort"];
        let policies = deployment.list("networkpolicies", EDGE)?;
        let rules = policies
            .iter()
            .map(|p| &p["spec"]["ingress"][0]["ports"][0]["port"]);
        let ports: Vec<_> = rules.collect();
        ensure!(ports == [&json!(40_000)], "policies let in {ports:?}");
        deployment.eventually("each relay advertises its own node", || {
            let reports = deployment.reports(EDGE)?;
            ensure!(reports.len() == 2, "{} relays report", reports.len());
            for node in reports {
                let on = node["spec"]["nodeName"].as_str().unwrap_or_default();
                let own = deployment.rig.nodes.iter().find(|n| n.machine.name == on);
                let own = own.context("a relay is on no node of the rig")?.machine;
                let wanted = [format!("{}:{port}", own.v4), format!("[{}]:{port}", own.v6)];
                let advertised = endpoints(&node);
                ensure!(
                    advertised == wanted,
                    "{on} advertises {advertised:?}, not {wanted:?}"
                );
            }
            Ok(())
        })?;
        let seen = through(deployment, &[format!(":{port}:vni:")])?;
        let mut open = behind.clone();
        open["regions"][0]["exposure"]["networkPolicy"] = json!(false);
        deployment.apply(EDGE, &open)?;
        deployment.soon("the policy is removed", || {
            let left = deployment.list("networkpolicies", EDGE)?.len();
            ensure!(left == 0, "{left} policies are left");
            Ok(())
        })?;
        Ok(seen)
    });
    deployment.delete(EDGE)?;
    seen
}

fn load_balancer(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let seen = restricted(deployment, || {
        deployment.apply(
            EDGE,
            &behind_balancers(json!({"ipFamilyPolicy": "PreferDualStack"})),
        )?;
        deployment.soon("relays wait for addresses", || {
            let is = deployment.condition(EDGE, "EndpointsPublished")?;
            ensure!(
                is == "False/LoadBalancerPending",
                "EndpointsPublished is '{is}'"
            );
            Ok(())
        })?;
        let pods = deployment.list("pods", EDGE)?.len();
        ensure!(pods == 0, "{pods} relays were started without an address");
        let metallb = MetalLb::start(deployment.rig)?;
        deployment.wait_ready(EDGE)?;
        let services = balancers(deployment)?;
        ensure!(services.len() == 2, "{} Services", services.len());
        let mut all = Vec::new();
        for service in services {
            let node = &service["metadata"]["annotations"]["peerrelay.dev/node"];
            let nodes = deployment.reports(EDGE)?;
            let node = nodes.iter().find(|n| n["spec"]["nodeName"] == *node);
            let advertised = endpoints(node.context("a relay does not report")?);
            let assigned = addresses(&service);
            ensure!(
                advertised == assigned && assigned.len() == 2,
                "the relay advertises {advertised:?}, its Service has {assigned:?}"
            );
            all.extend(assigned);
        }
        through(deployment, &all).with_context(|| metallb.log())
    });
    deployment.delete(EDGE)?;
    seen
}

fn shared_address(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let behind = || {
        let metallb = MetalLb::start(deployment.rig)?;
        let share = json!({"shareAddress": true, "basePort": 50_000});
        deployment.apply(EDGE, &behind_balancers(share))?;
        deployment.wait_ready(EDGE)?;
        let all: Vec<_> = balancers(deployment)?.iter().flat_map(addresses).collect();
        let ports: Vec<_> = all.iter().filter_map(|a| a.rsplit(':').next()).collect();
        let hosts: Vec<_> = all.iter().filter_map(|a| a.rsplit_once(':')).collect();
        ensure!(
            hosts.len() == 2 && hosts[0].0 == hosts[1].0,
            "no address is shared: {all:?}"
        );
        ensure!(
            ports.contains(&"50000") && ports.contains(&"50001"),
            "ports are {ports:?}"
        );
        through(deployment, &all).with_context(|| metallb.log())
    };
    let seen = where_enforced(deployment, || restricted(deployment, behind));
    deployment.delete(EDGE)?;
    seen
}

fn behind_balancers(load_balancer: Value) -> Value {
    let exposure = json!({"type": "LoadBalancer", "loadBalancer": load_balancer});
    json!({"regions": [{"name": "office", "clients": ["tag:office"], "exposure": exposure}]})
}

/// The relays' Services.
fn balancers(deployment: &Deployment<'_>) -> Result<Vec<Value>> {
    let mut services = deployment.list("services", EDGE)?;
    services.retain(|service| service["spec"]["type"] == "LoadBalancer");
    Ok(services)
}

/// The endpoints that a relay advertises, IPv4 first.
pub(super) fn endpoints(node: &Value) -> Vec<String> {
    let all = node["status"]["endpoints"].as_array().into_iter().flatten();
    let mut all: Vec<_> = all
        .map(|e| e["address"].as_str().unwrap_or_default().to_owned())
        .collect();
    all.sort_unstable();
    all
}

/// The addresses that are assigned to a Service, with its port.
fn addresses(service: &Value) -> Vec<String> {
    let port = &service["spec"]["ports"][0]["port"];
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let mut all: Vec<_> = ingress
        .into_iter()
        .flatten()
        .filter_map(|ingress| match ingress["ip"].as_str()? {
            v6 if v6.contains(':') => Some(format!("[{v6}]:{port}")),
            v4 => Some(format!("{v4}:{port}")),
        })
        .collect();
    all.sort_unstable();
    all
}

/// Waits until both clients use a relay whose address contains one of `parts`, according to
/// `tailscale status`.
pub(super) fn through(deployment: &Deployment<'_>, parts: &[String]) -> Result<String> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let has = |text: &str| parts.iter().any(|part| text.contains(part));
    let wanted = |route: &Route| is_relay(route) && has(&route.to_string());
    let (route, took) = deployment.wait_route(c1, c2, wanted, SEARCH)?;
    let status = c1.tailscale(["status"])?;
    ensure!(
        status.contains("active; peer-relay") && has(&status),
        "tailscale status shows no such path:\n{status}"
    );
    Ok(format!("{route} after {} s", took.as_secs()))
}
