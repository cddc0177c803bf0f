//! The addresses that relays advertise, and how these change.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rig::{
    cluster::Node,
    command::{program_in, run, run_with_input},
    deployment::{Deployment, Route},
    net::{Family, ROUTER, ROUTER_V4},
};
use serde_json::{Value, json};

use super::{EDGE, SEARCH, Scenario, reset};

/// Port of the nodes that is forwarded to the relay's.
const FORWARDED: u16 = 41_999;
/// First of the source ports that the router gives relays.
const TRANSLATED: u16 = 45_001;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a changed endpoint, behind a port forward, is used without a restart of any relay",
            run: changed,
        },
        Scenario {
            name: "of nodes with an overlay, a bridge of virtual machines and a tunnel, relays advertise \
                   the uplink alone",
            run: uplink_alone,
        },
        Scenario {
            name: "a PeerRelay without endpoints reports it, and recovers",
            run: nothing,
        },
        Scenario {
            name: "a wrong static endpoint is reported with the firewall rule to add",
            run: wrong,
        },
        Scenario {
            name: "a node's annotation gives its relay an endpoint, and a wrong one is \
                   reported",
            run: annotated,
        },
        Scenario {
            name: "relays behind an address translation advertise what STUN saw, and are used there",
            run: translated,
        },
    ]
}

fn uplink_alone(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.apply(EDGE, &with_endpoints(&json!({"discover": ["Interface"]})))?;
    deployment.wait_ready(EDGE)?;
    let nodes = &deployment.rig.nodes;
    let wanted = |name: &str| {
        let node = nodes.iter().find(|node| node.machine.name == name)?;
        let (v4, v6) = (node.machine.v4, node.machine.v6);
        Some(format!("{v4}:40000,[{v6}]:40000"))
    };
    deployment.eventually("each relay advertises the uplink of its node", || {
        for (node, endpoints) in endpoints(deployment)? {
            ensure!(
                wanted(&node).as_ref() == Some(&endpoints),
                "{node}: {endpoints}"
            );
        }
        Ok(())
    })?;
    let advertised: Vec<_> = endpoints(deployment)?.into_values().collect();
    Ok(advertised.join(" and "))
}

fn changed(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let pods = lives(deployment)?;
    forward(deployment, true)?;
    let shown = through_forward(deployment, &pods);
    forward(deployment, false)?;
    shown
}

fn through_forward(deployment: &Deployment<'_>, pods: &BTreeMap<String, String>) -> Result<String> {
    let nodes = &deployment.rig.nodes;
    let per_node: BTreeMap<_, _> = nodes
        .iter()
        .map(|node| (node.machine.name, [forwarded(node.machine.v4)]))
        .collect();
    let start = Instant::now();
    deployment.apply(
        EDGE,
        &with_endpoints(&json!({"advertise": "StaticOnly", "perNode": per_node})),
    )?;
    deployment.eventually("each relay advertises its own address alone", || {
        for (node, endpoints) in endpoints(deployment)? {
            let wanted = per_node.get(&*node).map(|list| list.join(","));
            ensure!(Some(&endpoints) == wanted.as_ref(), "{node}: {endpoints}");
        }
        Ok(())
    })?;
    let known = start.elapsed();
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    c1.stop()?;
    c1.start()?;
    let port = format!(":{FORWARDED}:vni:");
    let through = |route: &Route| matches!(route, Route::Relay(address) if address.contains(&port));
    let (route, _) = deployment.wait_route(c1, c2, through, SEARCH)?;
    let now = lives(deployment)?;
    ensure!(now == *pods, "pods were replaced: {pods:?}, then {now:?}");
    Ok(format!("{route}; reported after {} ms", known.as_millis()))
}

fn nothing(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let condition = |wanted: &str| {
        deployment.eventually(wanted, || {
            let published = deployment.condition(EDGE, "EndpointsPublished")?;
            ensure!(published == wanted, "EndpointsPublished is '{published}'");
            Ok(())
        })
    };
    condition("True/Published")?;
    deployment.apply(
        EDGE,
        &with_endpoints(&json!({"exclude": ["0.0.0.0/0", "::/0"]})),
    )?;
    condition("False/NoEndpoints")?;
    deployment.apply(EDGE, &json!({}))?;
    condition("True/Published")?;
    Ok("NoEndpoints, then Published".into())
}

fn wrong(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let condition = |wanted: &str| {
        deployment.eventually(wanted, || {
            let verified = deployment.condition(EDGE, "EndpointsVerified")?;
            ensure!(verified == wanted, "EndpointsVerified is '{verified}'");
            Ok(())
        })
    };
    condition("True/Verified")?;
    let pods = lives(deployment)?;
    // A port that nothing listens on, on the first node.
    let address = format!("{}:{FORWARDED}", deployment.rig.nodes[0].machine.v4);
    let spec = json!({"perNode": {"n1": [address]}});
    deployment.apply(EDGE, &with_endpoints(&spec))?;
    condition("False/StaticEndpointUnreachable")?;
    let relay = deployment.object("peerrelay", EDGE)?;
    let conditions = relay["status"]["conditions"].as_array().cloned();
    let message = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "EndpointsVerified")
        .map(|c| c["message"].to_string())
        .unwrap_or_default();
    let line = format!("allow UDP port {FORWARDED} over IPv4");
    ensure!(message.contains(&line), "no firewall line in: {message}");
    deployment.eventually("the RelayNode says which address is not reached", || {
        let verdicts = verdicts(deployment, "n1")?;
        let (bad, good): (Vec<_>, Vec<_>) = verdicts.iter().partition(|(a, _)| *a == address);
        ensure!(
            bad == [&(address.clone(), "False".to_owned())],
            "{verdicts:?}"
        );
        let proven = good.iter().all(|(_, verified)| verified == "True");
        ensure!(!good.is_empty() && proven, "{verdicts:?}");
        Ok(())
    })?;
    // Once the port leads to the relay, the address is proven, and nothing was restarted.
    forward(deployment, true)?;
    let mended = condition("True/Verified");
    forward(deployment, false)?;
    mended?;
    ensure!(lives(deployment)? == pods, "pods were replaced");
    Ok(message)
}

fn annotated(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let key = "peerrelay.dev/static-endpoints";
    let annotate = |value: &str| {
        let note = format!("{key}{value}");
        let words = ["annotate", "node", "n1", "--overwrite", &note];
        deployment.rig.kubectl(words).map(drop)
    };
    let pods = lives(deployment)?;
    let address = forwarded(deployment.rig.nodes[0].machine.v4);
    forward(deployment, true)?;
    let shown = annotate(&format!("={address}")).and_then(|()| {
        deployment.eventually("other relays reach the address of the annotation", || {
            let verdicts = verdicts(deployment, "n1")?;
            ensure!(
                verdicts.contains(&(address.clone(), "True".into())),
                "{verdicts:?}"
            );
            let all = endpoints(deployment)?;
            let has = |node: &str| all.get(node).is_some_and(|list| list.contains(&address));
            ensure!(has("n1") && !has("n2"), "{all:?}");
            Ok(())
        })?;
        annotate("=nonsense")?;
        deployment.eventually("the annotation is named", || {
            let published = deployment.condition(EDGE, "EndpointsPublished")?;
            ensure!(
                published == "False/InvalidAnnotation",
                "EndpointsPublished is '{published}'"
            );
            Ok(())
        })
    });
    forward(deployment, false)?;
    annotate("-")?;
    shown?;
    deployment.eventually("without an annotation all is as before", || {
        let all = endpoints(deployment)?;
        let gone = all.values().all(|list| !list.contains(&address));
        let published = deployment.condition(EDGE, "EndpointsPublished")?;
        ensure!(
            gone && published == "True/Published",
            "{published}, {all:?}"
        );
        Ok(())
    })?;
    ensure!(lives(deployment)? == pods, "pods were replaced");
    Ok(address)
}

fn translated(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    translate(deployment, true)?;
    let shown = by_stun(deployment);
    translate(deployment, false)?;
    let said = shown?;
    reset(deployment)?;
    Ok(said)
}

fn by_stun(deployment: &Deployment<'_>) -> Result<String> {
    let start = Instant::now();
    deployment.apply(EDGE, &with_endpoints(&json!({"discover": ["Stun"]})))?;
    let mut seen = Duration::ZERO;
    for (node, outside) in translations(deployment) {
        let outside = outside.to_string();
        deployment.eventually("STUN has seen the translated address", || {
            let relay = relay_node(deployment, node.machine.name)?;
            let endpoints = relay["status"]["endpoints"].as_array().cloned();
            let of_v4 = |e: &Value| !e["address"].as_str().unwrap_or("[").starts_with('[');
            let of_v4: Vec<_> = endpoints.into_iter().flatten().filter(of_v4).collect();
            ensure!(
                of_v4 == [json!({"address": outside, "source": "Stun"})],
                "{of_v4:?}"
            );
            Ok(())
        })?;
        seen = seen.max(start.elapsed());
        deployment.eventually("the other relay reaches it there", || {
            let verdicts = verdicts(deployment, node.machine.name)?;
            let verdict = (outside.clone(), "True".to_owned());
            ensure!(verdicts.contains(&verdict), "{verdicts:?}");
            Ok(())
        })?;
    }
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    for client in [c1, c2] {
        deployment
            .rig
            .network
            .cut(client.machine.name, Family::V6)?;
        client.stop()?;
        client.start()?;
    }
    let outside: Vec<_> = (translations(deployment).map(|(_, at)| format!("{at}:vni:"))).collect();
    let through = |route: &Route| match route {
        Route::Relay(to) => outside.iter().any(|at| to.starts_with(at)),
        _ => false,
    };
    let (route, _) = deployment.wait_route(c1, c2, through, SEARCH)?;
    Ok(format!(
        "{route}; reported after {:.1} s",
        seen.as_secs_f64()
    ))
}

/// The router's translation of each node's relay, towards STUN servers and back.
fn translations<'a>(deployment: &Deployment<'a>) -> impl Iterator<Item = (&'a Node, SocketAddrV4)> {
    let ports = TRANSLATED..;
    let outside = ports.map(|port| SocketAddrV4::new(ROUTER_V4, port));
    deployment.rig.nodes.iter().zip(outside)
}

fn translate(deployment: &Deployment<'_>, on: bool) -> Result<()> {
    let mut rules = "table ip translate {}\ndelete table ip translate\n".to_owned();
    if on {
        let (mut enter, mut leave) = (String::new(), String::new());
        for (node, outside) in translations(deployment) {
            let (ip, port) = (outside.ip(), outside.port());
            let inside = node.machine.v4;
            enter += &format!("ip daddr {ip} udp dport {port} dnat to {inside}:40000\n");
            leave +=
                &format!("ip saddr {inside} udp sport 40000 udp dport 3478 snat to {outside}\n");
        }
        rules += &format!(
            "table ip translate {{\n chain in {{\n type nat hook prerouting priority dstnat;\n \
             {enter} }}\n chain out {{\n type nat hook postrouting priority srcnat - 1;\n {leave} \
             iifname \"br0\" oifname \"br0\" ct status dnat masquerade\n }}\n}}\n"
        );
    }
    let mut nft = program_in(ROUTER, "nft");
    run_with_input(nft.args(["-f", "-"]), rules.as_bytes())?;
    // Rules apply to new flows only, and flows to the STUN server never end.
    for (node, _) in translations(deployment) {
        let mut delete = program_in(ROUTER, "conntrack");
        let from = node.machine.v4.to_string();
        // conntrack fails when there is no flow.
        run(delete.args(["-D", "-p", "udp", "-s", &from, "--dport", "3478"])).ok();
    }
    Ok(())
}

/// Addresses of a node's relay, each with the result of its verification.
fn verdicts(deployment: &Deployment<'_>, node: &str) -> Result<Vec<(String, String)>> {
    let relay = relay_node(deployment, node)?;
    let verdicts = relay["status"]["verification"].as_array().cloned();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(verdicts
        .into_iter()
        .flatten()
        .map(|v| (text(&v["address"]), text(&v["verified"])))
        .collect())
}

/// The RelayNode of a node, null while there is none.
fn relay_node(deployment: &Deployment<'_>, node: &str) -> Result<Value> {
    let text = deployment
        .rig
        .kubectl(["get", "relaynodes", "-n", "relays", "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let relays = list["items"].as_array().cloned().unwrap_or_default();
    let own = |r: &&Value| r["spec"]["peerRelay"] == EDGE && r["spec"]["nodeName"] == node;
    Ok(relays.iter().find(own).cloned().unwrap_or_default())
}

/// The region of the tests, with endpoints.
pub(super) fn with_endpoints(endpoints: &Value) -> Value {
    json!({"regions": [{"name": "office", "clients": ["tag:office"], "endpoints": endpoints}]})
}

/// The endpoints that each node's relay advertises, joined by commas.
fn endpoints(deployment: &Deployment<'_>) -> Result<BTreeMap<String, String>> {
    let text = deployment
        .rig
        .kubectl(["get", "relaynodes", "-n", "relays", "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let relays = list["items"].as_array().cloned().unwrap_or_default();
    let of_edge = relays.iter().filter(|r| r["spec"]["peerRelay"] == EDGE);
    Ok(of_edge
        .map(|relay| {
            let node = relay["spec"]["nodeName"].as_str().unwrap_or_default();
            let endpoints = relay["status"]["endpoints"].as_array();
            let addresses = endpoints.into_iter().flatten();
            let addresses: Vec<_> = addresses.filter_map(|e| e["address"].as_str()).collect();
            (node.to_owned(), addresses.join(","))
        })
        .collect())
}

/// Pods, with the number of restarts of their containers.
fn lives(deployment: &Deployment<'_>) -> Result<BTreeMap<String, String>> {
    let pods = deployment.list("pods", EDGE)?;
    Ok(pods
        .iter()
        .map(|pod| {
            let uid = pod["metadata"]["uid"].to_string();
            let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
            (uid, restarts.to_string())
        })
        .collect())
}

fn forwarded(ip: std::net::Ipv4Addr) -> String {
    format!("{ip}:{FORWARDED}")
}

/// A port forward on each node, from another port to the relay's.
fn forward(deployment: &Deployment<'_>, on: bool) -> Result<()> {
    let mut rules = "table ip rig_forward {}\ndelete table ip rig_forward\n".to_owned();
    if on {
        rules += &format!(
            "table ip rig_forward {{\n chain in {{\n type nat hook prerouting priority dstnat;\n \
             udp dport {FORWARDED} redirect to :40000\n }}\n}}\n"
        );
    }
    for node in &deployment.rig.nodes {
        let mut nft = program_in(node.machine.namespace, "nft");
        run_with_input(nft.args(["-f", "-"]), rules.as_bytes())?;
    }
    Ok(())
}
