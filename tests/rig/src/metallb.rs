//! MetalLB, outside of the cluster: its controller beside the control plane, a speaker on each node.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    Rig,
    cluster::image::PAUSE,
    net::ROUTER,
    process::Spec,
    progress::Progress,
    tools::{Tools, module},
};

const NAMESPACE: &str = "metallb-system";
const SPEAKER: &str = "speaker";
/// Addresses that MetalLB may assign, on the network of the nodes.
const POOL: [&str; 2] = ["10.89.0.200-10.89.0.220", "fd00:89::200-fd00:89::220"];

/// MetalLB while it runs.
#[derive(Debug)]
pub struct MetalLb<'a> {
    rig: &'a Rig,
    /// Directory of its definitions.
    crds: String,
    parts: Vec<String>,
}

impl<'a> MetalLb<'a> {
    /// Builds MetalLB, applies the definitions of its module and starts it.
    pub fn start(rig: &'a Rig) -> Result<Self> {
        Tools::build_only("metallb", &Progress::stderr())?;
        let mut this = Self {
            rig,
            crds: module("metallb", "go.universe.tf/metallb")?
                .join("config/crd/bases")
                .display()
                .to_string(),
            parts: Vec::new(),
        };
        this.gone("--timeout=60s")?;
        rig.kubectl(["apply", "--server-side", "-f", &this.crds])?;
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE},
        });
        rig.apply(&namespace.to_string())?;
        rig.apply(&placeholders().to_string())?;
        rig.kubectl([
            "rollout",
            "status",
            "daemonset/speaker",
            "-n",
            NAMESPACE,
            "--timeout=60s",
        ])?;
        this.part(
            "metallb-controller",
            ROUTER,
            "controller",
            &["--webhook-mode=disabled"],
        )?;
        for node in &rig.nodes {
            let name = format!("metallb-speaker-{}", node.machine.name);
            let on_node = format!("spec.nodeName={}", node.machine.name);
            let words = ["get", "pods", "-n", NAMESPACE, "-o", "name"];
            let pod = rig.kubectl(words.into_iter().chain(["--field-selector", &on_node]))?;
            let words = [
                format!("--node-name={}", node.machine.name),
                format!("--pod-name={}", pod.trim().trim_start_matches("pod/")),
                format!("--ml-bindaddr={}", node.machine.v4),
                "--ml-bindport=7946".to_owned(),
                "--host=127.0.0.1".to_owned(),
                format!("--ml-labels=app={SPEAKER}"),
            ];
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            this.part(&name, node.machine.namespace, "speaker", &words)?;
        }
        let object = |kind: &str, spec: Value| {
            let version = "metallb.io/v1beta1";
            let metadata = json!({"name": "rig", "namespace": NAMESPACE});
            json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
        };
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
            object("IPAddressPool", json!({"addresses": POOL})),
            object("L2Advertisement", json!({})),
        ]});
        rig.apply(&objects.to_string())?;
        Ok(this)
    }

    /// The ends of the logs of its parts.
    pub fn log(&self) -> String {
        let Ok(processes) = self.rig.processes() else {
            return String::new();
        };
        let records = self.parts.iter().filter_map(|part| processes.find(part));
        let tails: Vec<_> = records.map(|record| record.log_tail()).collect();
        tails.join("\n")
    }

    /// Removes the objects of an earlier MetalLB, with the flag `wait` for kubectl.
    fn gone(&self, wait: &str) -> Result<()> {
        let delete = ["delete", "--ignore-not-found", wait];
        let namespace = ["namespace", NAMESPACE];
        let crds = ["-f", &self.crds];
        for what in [namespace, crds] {
            self.rig.kubectl(delete.into_iter().chain(what))?;
        }
        Ok(())
    }

    fn part(&mut self, name: &str, namespace: &str, program: &str, words: &[&str]) -> Result<()> {
        let spec = Spec::new(name, namespace, &self.rig.tools().program(program))
            .arg(format!("--namespace={NAMESPACE}"))
            .args(words.iter().copied())
            .env("KUBECONFIG", self.rig.kubeconfig().display().to_string());
        self.rig.processes()?.start(&spec)?;
        self.parts.push(name.to_owned());
        Ok(())
    }
}

impl Drop for MetalLb<'_> {
    fn drop(&mut self) {
        let processes = self.rig.processes();
        for part in &self.parts {
            processes.as_ref().ok().map(|all| all.kill(part));
        }
        // The next MetalLB waits until they are gone.
        self.gone("--wait=false").ok();
    }
}

/// Speakers find each other by the addresses of their pods, which are here those of pods that do
/// nothing on the nodes' network.
fn placeholders() -> Value {
    let labels = json!({"app": SPEAKER});
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": SPEAKER, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "hostNetwork": true,
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "pause", "image": PAUSE, "imagePullPolicy": "Never"}],
            },
        }},
    })
}
