//! Relays as pods on nodes: templates, evictions, cordons, taints, drains and zones.

use anyhow::{Context, Result, bail, ensure};
use rig::{
    cluster::image::PAUSE,
    command::run,
    deployment::{Deployment, Route},
    names::NAMESPACE,
};
use serde_json::{Value, json};

use super::{
    EDGE, SEARCH, Scenario,
    check::plugin,
    held::Held,
    is_relay,
    links::containers,
    regions::running,
    relayed, reset,
    restarts::{STALL, longest, stays},
    vacant,
};

const PORT: u16 = 7_021;

/// A taint of the tests.
const TAINT: &str = "rig-maintenance";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a restart of containerd and of the kubelet changes nothing for clients and relays",
            run: runtime_restarts,
        },
        Scenario {
            name: "pods on each node follow the template, and are evicted one at a time",
            run: template,
        },
        Scenario {
            name: "a node is drained: the path moves, the status follows, and both come back",
            run: drained,
        },
        Scenario {
            name: "kubectl peer-relay drain takes the relays off a node after their clients have left, and undrain \
                   allows them again",
            run: drained_of_relays,
        },
        Scenario {
            name: "zones, cordons and taints decide which node gets the relay",
            run: zones,
        },
    ]
}

fn template(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "rig-relays"}, "value": 1000,
    });
    deployment.rig.apply(&class.to_string())?;
    let taint = format!("{TAINT}=yes:NoSchedule");
    deployment.rig.kubectl(["taint", "node", "n1", &taint])?;
    let seen = templated(deployment);
    deployment.delete(EDGE)?;
    untaint(deployment, "n1")?;
    deployment
        .rig
        .kubectl(["delete", "priorityclass", "rig-relays"])?;
    seen
}

fn templated(deployment: &Deployment<'_>) -> Result<String> {
    let resources = json!({
        "requests": {"cpu": "20m", "memory": "24Mi"}, "limits": {"memory": "200Mi"},
    });
    let tolerations = json!([{"key": TAINT, "operator": "Exists"}]);
    let region = json!({
        "name": "office", "clients": ["tag:office"], "placement": {"tolerations": tolerations},
    });
    let beside = json!({"name": "beside", "image": PAUSE, "imagePullPolicy": "Never"});
    let relay = json!({"name": "relay", "env": [{"name": "TEAM", "value": "net"}]});
    let template = json!({
        "labels": {"team": "net", "peerrelay.dev/region": "mine"},
        "annotations": {"example.net/owner": "net"},
        "resources": resources,
        "priorityClassName": "rig-relays",
        "podOverrides": {"containers": [relay, beside], "terminationGracePeriodSeconds": 20},
    });
    deployment.apply(EDGE, &json!({"regions": [region], "template": template}))?;
    deployment.wait_ready(EDGE)?;
    let pods = deployment.list("pods", EDGE)?;
    ensure!(pods.len() == 2, "{} pods", pods.len());
    for pod in &pods {
        let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
        let containers = spec["containers"].as_array();
        let named = |name: &str| containers.into_iter().flatten().find(|c| c["name"] == name);
        let relay = named("relay").context("no relay container")?;
        named("beside").context("no container of the overrides")?;
        let tolerates = |t: &Value| t["key"] == TAINT;
        let has = |list: &Value, is: &dyn Fn(&Value) -> bool| {
            list.as_array().is_some_and(|items| items.iter().any(is))
        };
        for (what, is) in [
            ("label", metadata["labels"]["team"] == "net"),
            (
                "operator's label",
                metadata["labels"]["peerrelay.dev/region"] == "office",
            ),
            (
                "annotation",
                metadata["annotations"]["example.net/owner"] == "net",
            ),
            ("resources", relay["resources"] == resources),
            ("priority", spec["priority"] == 1000),
            ("toleration", has(&spec["tolerations"], &tolerates)),
            ("variable", has(&relay["env"], &|e| e["name"] == "TEAM")),
            ("grace period", spec["terminationGracePeriodSeconds"] == 20),
        ] {
            ensure!(is, "{what} is not what the template says: {pod}");
        }
    }
    evicted(deployment, &pods)
}

/// Evicts both relays at once: the budget allows one eviction.
fn evicted(deployment: &Deployment<'_>, pods: &[Value]) -> Result<String> {
    let budget = format!("{EDGE}-office");
    deployment.soon("the budget lets one relay go", || {
        let allowed =
            deployment.object("poddisruptionbudget", &budget)?["status"]["disruptionsAllowed"]
                .clone();
        ensure!(allowed == 1, "{allowed} may go");
        Ok(())
    })?;
    let evict = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": NAMESPACE},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction");
        let mut kubectl = deployment.rig.kubectl_command();
        kubectl.args(["create", "--raw", &path, "-f", "-"]);
        rig::command::run_with_input(&mut kubectl, eviction.to_string().as_bytes())
    };
    evict(&pods[0])?;
    let Err(refused) = evict(&pods[1]) else {
        bail!("both relays could be evicted at once");
    };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("disruption budget"), "{refused}");
    deployment.wait_ready(EDGE)?;
    Ok("two pods; the second eviction was refused".into())
}

fn drained(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.eventually("two relays are ready", || relays(deployment, "2/2"))?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (first, second) = of_route(deployment)?;
    let on = |node: &str| on(deployment, node);
    let pods = running(deployment)?;
    let words = [
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=60s",
    ];
    let drain = ["drain", first].into_iter().chain(words);
    let moved = deployment.rig.kubectl(drain).map(drop).and_then(|()| {
        ensure!(
            running(deployment)? == pods,
            "a drain that ignores DaemonSets took a relay"
        );
        // Pods that a drain does not ignore, as before a node is shut down.
        let taint = format!("{TAINT}=yes:NoExecute");
        deployment.rig.kubectl(["taint", "node", first, &taint])?;
        deployment.eventually("the status counts one relay", || relays(deployment, "1/1"))?;
        deployment.wait_route(c1, c2, on(second), SEARCH)
    });
    deployment.rig.kubectl(["uncordon", first])?;
    untaint(deployment, first)?;
    let (route, took) = moved?;
    deployment.eventually("both relays are ready again", || relays(deployment, "2/2"))?;
    deployment.wait_ready(EDGE)?;
    Ok(format!(
        "{first} drained: {route} after {} s",
        took.as_secs()
    ))
}

/// Returns a check whether a route leads through the relay of a node.
fn on(deployment: &Deployment<'_>, node: &str) -> impl Fn(&Route) -> bool + use<> {
    let machine = deployment.rig.nodes.iter().find(|n| n.machine.name == node);
    let own = machine.map(|n| [n.machine.v4.to_string(), n.machine.v6.to_string()]);
    move |route: &Route| {
        let text = route.to_string();
        is_relay(route) && own.iter().flatten().any(|ip| text.contains(ip))
    }
}

/// The node with the relay between the clients, and the other one.
fn of_route(deployment: &Deployment<'_>) -> Result<(&'static str, &'static str)> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (route, _) = deployment.wait_route(c1, c2, is_relay, SEARCH)?;
    Ok(match on(deployment, "n1")(&route) {
        true => ("n1", "n2"),
        false => ("n2", "n1"),
    })
}

fn drained_of_relays(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    deployment.eventually("two relays are ready", || relays(deployment, "2/2"))?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let (first, second) = of_route(deployment)?;
    let drain = run(plugin(deployment)?.args(["drain", first]));
    let moved = drain.and_then(|said| {
        let left = running(deployment)?;
        ensure!(left.keys().eq([second]), "relays are on {:?}", left.keys());
        deployment.eventually("the status counts one relay", || relays(deployment, "1/1"))?;
        let (route, took) = deployment.wait_route(c1, c2, on(deployment, second), SEARCH)?;
        Ok(format!(
            "{}: {route} after {} s",
            said.trim(),
            took.as_secs()
        ))
    });
    run(plugin(deployment)?.args(["undrain", first]))?;
    let moved = moved?;
    deployment.eventually("both relays are ready again", || relays(deployment, "2/2"))?;
    deployment.wait_ready(EDGE)?;
    Ok(moved)
}

fn zones(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    for (node, zone) in [("n1", "a"), ("n2", "b")] {
        let label = format!("{ZONE}={zone}");
        deployment
            .rig
            .kubectl(["label", "node", node, &label, "--overwrite"])?;
    }
    let seen = placed(deployment);
    deployment.rig.kubectl(["uncordon", "n1"])?;
    untaint(deployment, "n1")?;
    let unlabel = format!("{ZONE}-");
    deployment
        .rig
        .kubectl(["label", "nodes", "n1", "n2", &unlabel])?;
    deployment.delete(EDGE)?;
    seen
}

fn placed(deployment: &Deployment<'_>) -> Result<String> {
    let apply = |placement: Value| {
        let region = json!({
            "name": "office", "clients": ["tag:office"], "placement": placement,
        });
        deployment.apply(EDGE, &json!({"regions": [region]}))
    };
    let only = |what: &str, wanted: &[&str]| {
        deployment.eventually(what, || {
            let on = running(deployment)?;
            ensure!(on.keys().eq(wanted), "relays are on {:?}", on.keys());
            Ok(())
        })
    };
    let one = |zones: Value| json!({"zones": zones, "maxRelays": 1});
    deployment.rig.kubectl(["cordon", "n1"])?;
    apply(one(json!(["a", "b"])))?;
    only("nothing is put onto a cordoned node", &["n2"])?;
    apply(one(json!(["a"])))?;
    only("the relay leaves the zone, and waits for the cordon", &[])?;
    let ready = || deployment.condition(EDGE, "Ready");
    deployment.soon("the status says that no node fits", || {
        let ready = ready()?;
        ensure!(ready == "False/NoNodes", "Ready is '{ready}'");
        Ok(())
    })?;
    deployment.rig.kubectl(["uncordon", "n1"])?;
    only("the relay is in its zone", &["n1"])?;
    deployment.wait_ready(EDGE)?;
    let taint = format!("{TAINT}=yes:NoExecute");
    deployment.rig.kubectl(["taint", "node", "n1", &taint])?;
    only("a taint sends the relay away", &[])?;
    let mut tolerant = one(json!(["a"]));
    tolerant["tolerations"] = json!([{"key": TAINT, "operator": "Exists"}]);
    apply(tolerant)?;
    only("a relay that tolerates the taint is back", &["n1"])?;
    deployment.wait_ready(EDGE)?;
    Ok("n2, none, n1, none, n1".into())
}

fn relays(deployment: &Deployment<'_>, wanted: &str) -> Result<()> {
    let relays = deployment.object("peerrelay", EDGE)?["status"]["relays"].clone();
    ensure!(relays == wanted, "relays: {relays}");
    Ok(())
}

fn untaint(deployment: &Deployment<'_>, node: &str) -> Result<()> {
    let taint = format!("{TAINT}-");
    // kubectl fails when there is no taint.
    deployment.rig.kubectl(["taint", "node", node, &taint]).ok();
    Ok(())
}

fn runtime_restarts(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let session = relayed(deployment)?;
    let pods = containers(deployment)?;
    let held = Held::open(deployment, PORT)?;
    for node in &deployment.rig.nodes {
        node.stop_kubelet()?;
        node.stop_containerd()?;
        node.start_containerd()?;
        node.start_kubelet()?;
    }
    deployment.eventually("the kubelets watch the pods again", || {
        let pods = deployment.list("pods", EDGE)?;
        let is_ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        ensure!(pods.iter().all(is_ready), "a pod is not ready");
        Ok(())
    })?;
    deployment.wait_ready(EDGE)?;
    let trips = held.finish().context("a TCP connection over the relay")?;
    ensure!(longest(&trips)? < STALL, "{trips}");
    ensure!(containers(deployment)? == pods, "a relay was replaced");
    let now = relayed(deployment)?;
    stays(deployment, &session, &now)?;
    Ok(format!("{session}, then {now}; {trips}"))
}
