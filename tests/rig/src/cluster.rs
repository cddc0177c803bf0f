//! The Kubernetes cluster: one control plane, two nodes.

mod cgroup;
mod control_plane;
pub mod image;
pub mod node;

use std::{fs, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    command::{program_in, run},
    net::{self, NODES, ROUTER},
    pki::Pki,
    process::{Processes, wait_until},
    progress::Progress,
    state::State,
    tools::Tools,
};
pub use image::{Images, PEERRELAY};
pub use node::Node;

const NODES_READY: Duration = Duration::from_secs(90);

/// A cluster that runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The nodes of the cluster.
    pub nodes: Vec<Node>,
    processes: Processes,
    pki: Pki,
    tools: Tools,
    cache: PathBuf,
}

impl Cluster {
    /// Uses the cluster whose processes are recorded.
    pub fn open(state: &State, pki: &Pki, tools: &Tools) -> Result<Self> {
        let processes = Processes::open(state)?;
        let node = |machine| Node::new(machine, state, &processes, pki, tools);
        Ok(Self {
            nodes: NODES.map(node).into(),
            processes,
            pki: pki.clone(),
            tools: tools.clone(),
            cache: state.path("kube-cache"),
        })
    }

    /// Starts everything and waits until both nodes are ready.
    pub fn start(&self, images: &Images, progress: &Progress) -> Result<()> {
        let archive = images.archive();
        thread::scope(|scope| {
            let prepared: Vec<_> = self
                .nodes
                .iter()
                .map(|node| scope.spawn(|| node.start_runtime(archive, progress)))
                .collect();
            control_plane::start(&self.processes, &self.pki, &self.tools, progress, || {
                self.kubectl(["get", "--raw", "/readyz"]).map(drop)
            })?;
            for node in prepared {
                node.join()
                    .map_err(|_| anyhow::anyhow!("a node's thread panicked"))??;
            }
            self.nodes.iter().try_for_each(Node::start_kubernetes)
        })?;
        self.wait_ready(NODES_READY)?;
        for node in &self.nodes {
            progress.line(format_args!("node {} ready", node.machine.name));
        }
        Ok(())
    }

    /// Waits until every node is ready; starts a kubelet again that lost its start-up race.
    pub fn wait_ready(&self, deadline: Duration) -> Result<()> {
        for node in &self.nodes {
            wait_until(
                deadline,
                || true,
                || {
                    node.revive_kubelet()?;
                    node_ready(self, node.machine)
                },
            )
            .with_context(|| format!("see the log of kubelet-{}", node.machine.name))?;
        }
        // The controller manager creates it; the API server refuses pods before.
        wait_until(
            deadline,
            || true,
            || {
                self.kubectl(["get", "serviceaccount", "default", "-o", "name"])
                    .map(drop)
            },
        )
    }

    /// Fails unless the API server answers and all nodes are ready.
    pub fn check(&self) -> Result<()> {
        self.nodes
            .iter()
            .try_for_each(|node| node_ready(self, node.machine))
    }

    /// kubectl as administrator, in the control plane's namespace, to add arguments to.
    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = program_in(ROUTER, self.tools.program("kubectl"));
        // kubectl caches the kinds of an API server: those of this rig, not of the one before.
        kubectl
            .env("KUBECONFIG", self.pki.kubeconfig("admin"))
            .env("KUBECACHEDIR", self.kubectl_cache());
        kubectl
    }

    /// The directory with kubectl's cache of the API server's kinds.
    pub fn kubectl_cache(&self) -> PathBuf {
        self.cache.clone()
    }

    /// Runs kubectl as administrator.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        run(self.kubectl_command().args(args))
    }

    /// Id of the process that has the name of this pod in its environment, as `POD_NAME`. Only this rig's pods
    /// are looked at: another rig on this machine can have a pod of the same name.
    pub fn process_of_pod(name: &str) -> Result<i32> {
        let wanted = format!("POD_NAME={name}");
        for node in &NODES {
            for id in cgroup::processes(node.namespace)? {
                let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
                let mut variables = environment.split(|byte| *byte == 0);
                if variables.any(|variable| variable == wanted.as_bytes()) {
                    return Ok(id);
                }
            }
        }
        bail!("the pod {name} has no process")
    }

    /// Kills all processes in the control groups of the nodes, and removes the groups.
    pub fn remove_groups() -> Result<()> {
        NODES
            .iter()
            .try_for_each(|node| cgroup::remove(node.namespace))
    }
}

fn node_ready(cluster: &Cluster, machine: net::Machine) -> Result<()> {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    let ready = cluster.kubectl(["get", "node", machine.name, "-o", path])?;
    if ready != "True" {
        bail!("node {} is not ready", machine.name);
    }
    Ok(())
}
