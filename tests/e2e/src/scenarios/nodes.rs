//! Relays as pods on nodes: what a template makes of them, and what becomes of them when nodes are
//! cordoned, tainted, drained and in other zones.

use anyhow::{Context, Result, bail, ensure};
use rig::cluster::image::PAUSE;
use rig::world::{NAMESPACE, Route, World};
use serde_json::{Value, json};

use super::regions::running;
use super::{EDGE, MINUTE, Scenario, is_relay, reset, vacant};

/// A taint of the tests.
const TAINT: &str = "rig-maintenance";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "on each node, pods are what the template says, and are evicted one at a time",
            run: template,
        },
        Scenario {
            name: "a node is drained: the path moves, the status follows, and both come back",
            run: drained,
        },
        Scenario {
            name: "zones, cordons and taints decide on which node the relay is",
            run: zones,
        },
    ]
}

fn template(world: &World<'_>) -> Result<String> {
    vacant(world)?;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "rig-relays"}, "value": 1000,
    });
    world.rig.apply(&class.to_string())?;
    let taint = format!("{TAINT}=yes:NoSchedule");
    world.rig.kubectl(["taint", "node", "n1", &taint])?;
    let seen = templated(world);
    world.delete(EDGE)?;
    untaint(world, "n1")?;
    world
        .rig
        .kubectl(["delete", "priorityclass", "rig-relays"])?;
    seen
}

fn templated(world: &World<'_>) -> Result<String> {
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
    world.apply(EDGE, &json!({"regions": [region], "template": template}))?;
    world.wait_ready(EDGE)?;
    let pods = world.list("pods", EDGE)?;
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
    evicted(world, &pods)
}

/// Evicts both relays at once: the budget lets one go.
fn evicted(world: &World<'_>, pods: &[Value]) -> Result<String> {
    let budget = format!("{EDGE}-office");
    world.eventually("the budget lets one relay go", || {
        let allowed =
            world.object("poddisruptionbudget", &budget)?["status"]["disruptionsAllowed"].clone();
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
        let mut kubectl = world.rig.kubectl_command();
        kubectl.args(["create", "--raw", &path, "-f", "-"]);
        rig::command::run_with_input(&mut kubectl, eviction.to_string().as_bytes())
    };
    evict(&pods[0])?;
    let Err(refused) = evict(&pods[1]) else {
        bail!("both relays could be evicted at once");
    };
    let refused = format!("{refused:#}");
    ensure!(refused.contains("disruption budget"), "{refused}");
    world.wait_ready(EDGE)?;
    Ok("two pods; the second eviction was refused".into())
}

fn drained(world: &World<'_>) -> Result<String> {
    reset(world)?;
    world.eventually("two relays are ready", || relays(world, "2/2"))?;
    let (c1, c2) = (world.client("c1")?, world.client("c2")?);
    let (route, _) = world.wait_route(c1, c2, is_relay, MINUTE)?;
    let on = |node: &str| {
        let machine = world.rig.nodes.iter().find(|n| n.machine.name == node);
        let own = machine.map(|n| [n.machine.v4.to_string(), n.machine.v6.to_string()]);
        move |route: &Route| {
            let text = route.to_string();
            is_relay(route) && own.iter().flatten().any(|ip| text.contains(ip))
        }
    };
    let (first, second) = match on("n1")(&route) {
        true => ("n1", "n2"),
        false => ("n2", "n1"),
    };
    let pods = running(world)?;
    let words = [
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=60s",
    ];
    let drain = ["drain", first].into_iter().chain(words);
    let moved = world.rig.kubectl(drain).map(drop).and_then(|()| {
        ensure!(
            running(world)? == pods,
            "a drain that ignores DaemonSets took a relay"
        );
        // What is not ignored, as when the node is to be switched off.
        let taint = format!("{TAINT}=yes:NoExecute");
        world.rig.kubectl(["taint", "node", first, &taint])?;
        world.eventually("the status counts one relay", || relays(world, "1/1"))?;
        world.wait_route(c1, c2, on(second), MINUTE)
    });
    world.rig.kubectl(["uncordon", first])?;
    untaint(world, first)?;
    let (route, took) = moved?;
    world.eventually("both relays are ready again", || relays(world, "2/2"))?;
    world.wait_ready(EDGE)?;
    Ok(format!(
        "{first} drained: {route} after {} s",
        took.as_secs()
    ))
}

fn zones(world: &World<'_>) -> Result<String> {
    vacant(world)?;
    for (node, zone) in [("n1", "a"), ("n2", "b")] {
        let label = format!("{ZONE}={zone}");
        world
            .rig
            .kubectl(["label", "node", node, &label, "--overwrite"])?;
    }
    let seen = placed(world);
    world.rig.kubectl(["uncordon", "n1"])?;
    untaint(world, "n1")?;
    let unlabel = format!("{ZONE}-");
    world
        .rig
        .kubectl(["label", "nodes", "n1", "n2", &unlabel])?;
    world.delete(EDGE)?;
    seen
}

fn placed(world: &World<'_>) -> Result<String> {
    let apply = |placement: Value| {
        let region = json!({
            "name": "office", "clients": ["tag:office"], "placement": placement,
        });
        world.apply(EDGE, &json!({"regions": [region]}))
    };
    let only = |what: &str, wanted: &[&str]| {
        world.eventually(what, || {
            let on = running(world)?;
            ensure!(on.keys().eq(wanted), "relays are on {:?}", on.keys());
            Ok(())
        })
    };
    let one = |zones: Value| json!({"zones": zones, "maxRelays": 1});
    world.rig.kubectl(["cordon", "n1"])?;
    apply(one(json!(["a", "b"])))?;
    only("nothing is put onto a cordoned node", &["n2"])?;
    apply(one(json!(["a"])))?;
    only("the relay leaves the zone, and waits for the cordon", &[])?;
    let ready = || world.condition(EDGE, "Ready");
    world.eventually("the status says that no node fits", || {
        let ready = ready()?;
        ensure!(ready == "False/NoNodes", "Ready is '{ready}'");
        Ok(())
    })?;
    world.rig.kubectl(["uncordon", "n1"])?;
    only("the relay is in its zone", &["n1"])?;
    world.wait_ready(EDGE)?;
    let taint = format!("{TAINT}=yes:NoExecute");
    world.rig.kubectl(["taint", "node", "n1", &taint])?;
    only("a taint sends the relay away", &[])?;
    let mut tolerant = one(json!(["a"]));
    tolerant["tolerations"] = json!([{"key": TAINT, "operator": "Exists"}]);
    apply(tolerant)?;
    only("a relay that tolerates the taint is back", &["n1"])?;
    world.wait_ready(EDGE)?;
    Ok("n2, none, n1, none, n1".into())
}

fn relays(world: &World<'_>, wanted: &str) -> Result<()> {
    let relays = world.object("peerrelay", EDGE)?["status"]["relays"].clone();
    ensure!(relays == wanted, "relays: {relays}");
    Ok(())
}

fn untaint(world: &World<'_>, node: &str) -> Result<()> {
    let taint = format!("{TAINT}-");
    // It fails when there is none.
    world.rig.kubectl(["taint", "node", node, &taint]).ok();
    Ok(())
}
