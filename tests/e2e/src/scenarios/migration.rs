//! Relays of Tailscale's own software that `peerrelay import` converts, and that end after the
//! imported relay has started.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program_in, run, run_with_input},
    deployment::{Deployment, Route},
    names::{NAMESPACE, SECRET},
    net::ROUTER,
    tailnet::Client,
};
use serde_json::{Value, json};

use super::{
    FALLBACK, SEARCH, Scenario, held::Held, is_relay, relayed, relayed_by, restarts::longest,
    vacant,
};

/// TCP port of the connection between the clients.
const PORT: u16 = 7_006;
/// Name of the device that runs Tailscale's relay, and of the PeerRelay that replaces it.
const OLD: &str = "vps-1";
/// UDP port of Tailscale's relay and of the imported one, on different nodes.
const RELAY_PORT: u16 = 41_000;
/// Tag of both relays.
const TAG: &str = "tag:relay-office";
/// Time in which traffic flows before and after the old relay ends.
const FLOW: Duration = Duration::from_secs(3);
/// Name of the PeerRelay in the corpus that is stored in the cluster.
const STORED: &str = "relays.eu";
/// Kinds of Tailscale's operator, with their plurals.
const KINDS: [(&str, &str); 3] = [
    ("PeerRelay", "peerrelays"),
    ("ProxyClass", "proxyclasses"),
    ("Tailnet", "tailnets"),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "an imported relay serves beside Tailscale's, and connections continue when that ends",
            run: side_by_side,
        },
        Scenario {
            name: "peerrelay import converts the relays of a cluster as those of files",
            run: from_cluster,
        },
    ]
}

fn side_by_side(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let [first, second] = [0, 1].map(|at| deployment.rig.nodes.get(at));
    let (first, second) = first.zip(second).context("fewer than two nodes")?;
    let old = deployment.rig.tailnet.device_on(first.machine, OLD, TAG);
    let shown = old
        .start()
        .and_then(|()| migrate(deployment, &old, second.machine.name));
    let ended = deployment
        .delete(OLD)
        .and_then(|()| deployment.rig.tailnet.set_tags(OLD, &[]))
        .and_then(|()| old.stop());
    let shown = shown?;
    ended?;
    Ok(shown)
}

/// Imports the relay of a device to a node, and ends the device's relay under traffic.
fn migrate(deployment: &Deployment<'_>, old: &Client, node: &str) -> Result<String> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    old.tailscale(["set", &format!("--relay-server-port={RELAY_PORT}")])?;
    relayed_by(deployment, |address| is_at(address, old))
        .context("Tailscale's relay is not used")?;
    let held = Held::open(deployment, PORT)?;

    let prefs = old.tailscale(["debug", "prefs"])?;
    deployment.rig.apply(&imported(deployment, &prefs, node)?)?;
    deployment.wait_ready(OLD)?;
    deployment.eventually("clients know both relays", || {
        let servers: Vec<String> = serde_json::from_str(&c1.debug_peer_relay_servers()?)?;
        ensure!(servers.len() >= 2, "c1 knows {servers:?}");
        Ok(())
    })?;
    let before = relayed(deployment)?;
    std::thread::sleep(FLOW);

    old.tailscale(["set", "--relay-server-port="])?;
    let by_new = |route: &Route| is_relay(route) && !is_at(&route.to_string(), old);
    let (route, took) = deployment.wait_route(c1, c2, by_new, SEARCH)?;
    deployment.wait_route(c2, c1, by_new, SEARCH)?;
    std::thread::sleep(FLOW);
    let trips = held.finish().context("the connection did not survive")?;
    let silence = longest(&trips)?;
    ensure!(silence < FALLBACK, "TCP stalled: {trips}");
    Ok(format!(
        "{before} until the end of Tailscale's relay, then {route} within {:.1} s; on one connection {trips}",
        took.as_secs_f64()
    ))
}

/// Converts the preferences of a host as the migration page says. Adds the private authority of the
/// rig's control server, which preferences do not contain.
fn imported(deployment: &Deployment<'_>, prefs: &str, node: &str) -> Result<String> {
    let program = deployment.rig.program()?;
    let mut import = Command::new(&program);
    import
        .args(["import", "-f", "-", "--strict", "--client", "tag:office"])
        .args(["--node", node, "--namespace", NAMESPACE])
        .args(["--auth-key-secret", SECRET]);
    let yaml = run_with_input(&mut import, prefs.as_bytes())?;
    let mut validate = Command::new(&program);
    run_with_input(validate.args(["validate", "-f", "-"]), yaml.as_bytes())?;
    let mut relay: Value = serde_yaml::from_str(&yaml)?;
    ensure!(relay["metadata"]["name"] == OLD, "{yaml}");
    ensure!(relay["spec"]["port"] == RELAY_PORT, "{yaml}");
    ensure!(relay["spec"]["regions"][0]["tag"] == TAG, "{yaml}");
    let authority = std::fs::read_to_string(deployment.rig.ca())?;
    relay["spec"]["tailnet"]["caBundle"] = json!(authority);
    Ok(relay.to_string())
}

/// Returns whether an address is one of a device's machine.
fn is_at(address: &str, device: &Client) -> bool {
    let machine = device.machine;
    [machine.v4.to_string(), machine.v6.to_string()]
        .iter()
        .any(|ip| address.contains(ip))
}

/// The kinds of Tailscale's operator are defined without their schemas, because the API server only
/// stores their objects.
fn from_cluster(deployment: &Deployment<'_>) -> Result<String> {
    let rig = deployment.rig;
    let delete = || {
        let names = KINDS.map(|(_, plural)| format!("crd/{plural}.tailscale.com"));
        let words = ["delete", "--ignore-not-found", "--timeout=30s"].map(str::to_owned);
        rig.kubectl(words.into_iter().chain(names)).map(drop)
    };
    let import = |words: &[&str]| {
        let mut import = program_in(ROUTER, rig.program()?);
        import.env("KUBECONFIG", rig.kubeconfig());
        run(import.arg("import").args(words))
    };
    let shown = (|| {
        for (kind, plural) in KINDS {
            rig.apply(&definition(kind, plural).to_string())?;
        }
        for (_, plural) in KINDS {
            let crd = format!("crd/{plural}.tailscale.com");
            let wait = ["wait", "--for=condition=Established", &crd, "--timeout=30s"];
            rig.kubectl(wait)?;
        }
        let corpus = rig::state::repository().join("tests/manifests/import/every-field.in.yaml");
        let corpus = corpus.display().to_string();
        rig.kubectl(["apply", "-f", &corpus])?;
        let stored = import(&["--from-cluster"])?;
        let file = import(&["-f", &corpus])?;
        ensure!(
            without_comments(&stored) == without_comments(&file),
            "{stored}\n{file}"
        );
        let lost = import(&["--from-cluster", "--strict"]);
        ensure!(lost.is_err(), "--strict accepts settings that are not kept");
        Ok(stored.lines().count())
    })();
    // Tailscale's operator, which would remove its finalizer, does not run here.
    let object = ["peerrelays.tailscale.com", STORED, "--type=merge"];
    let without = ["-p", r#"{"metadata":{"finalizers":null}}"#];
    let released = rig.kubectl(["patch"].into_iter().chain(object).chain(without));
    delete()?;
    let lines = shown?;
    released?;
    let none = import(&["--from-cluster"]);
    let said = none.err().map(|error| format!("{error:#}"));
    let said = said.context("a cluster without the kinds has relays")?;
    ensure!(said.contains("no PeerRelays"), "it says: {said}");
    Ok(format!("{lines} lines from the cluster as from the file"))
}

fn definition(kind: &str, plural: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.tailscale.com")},
        "spec": {
            "group": "tailscale.com", "scope": "Cluster",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn without_comments(yaml: &str) -> String {
    let lines = yaml.lines().filter(|line| !line.starts_with('#'));
    lines.collect::<Vec<_>>().join("\n")
}
