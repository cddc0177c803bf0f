//! A node: containerd, kubelet and kube-proxy with files, mounts and network of their own.

mod access;
mod config;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use self::access::Directory;
use super::cgroup;
use crate::{
    command::{find, program, run},
    net::Machine,
    pki::Pki,
    process::{ProcessRecord, Processes, Spec},
    progress::Progress,
    state::{State, write_private},
    tools::Tools,
};

const RUNTIME_READY: Duration = Duration::from_secs(20);

/// Creates the mounts of a node in a namespace of their own; they end with its last process.
///
/// The daemons share /run, /var/log, /var/lib/cni and /var/lib/kubelet with no other node and not with the host.
/// What a kubelet mounts for pods must reach its containerd, so they share these mounts.
/// A kubelet also sets how the kernel overcommits and panics; it may write, but to copies.
const MOUNTS: &str = r#"
set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount --bind "$1/log" /var/log
mount --bind "$1/cni" /var/lib/cni
mount --bind "$1/state" /var/lib/peerrelay
mkdir -p "$1/kubelet" && mount --bind "$1/kubelet" /var/lib/kubelet
mount -t bpf bpf /sys/fs/bpf || true
for file in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    mkdir -p "/run/sysctl/${file%/*}"
    cat "/proc/sys/$file" > "/run/sysctl/$file"
    mount --bind "/run/sysctl/$file" "/proc/sys/$file"
done
touch "$1/mounted"
exec sleep infinity
"#;

/// A node of the cluster.
#[derive(Clone, Debug)]
pub struct Node {
    /// The name, addresses and namespace of the node.
    pub machine: Machine,
    dir: PathBuf,
    processes: Processes,
    pki: Pki,
    tools: Tools,
}

impl Node {
    pub(super) fn new(
        machine: Machine,
        state: &State,
        processes: &Processes,
        pki: &Pki,
        tools: &Tools,
    ) -> Self {
        Self {
            machine,
            dir: state.path(machine.name),
            processes: processes.clone(),
            pki: pki.clone(),
            tools: tools.clone(),
        }
    }

    /// Logs of the pods that ran here.
    pub fn pod_logs(&self) -> PathBuf {
        self.dir.join("pods")
    }

    /// State directories of the relays that ran here.
    pub fn relay_state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Starts containerd and gives it the images.
    pub(super) fn start_runtime(&self, archive: &Path, progress: &Progress) -> Result<()> {
        for dir in [
            "log/containers",
            "cni",
            "state",
            "kubelet",
            "pods",
            "plugins",
        ] {
            let dir = self.dir.join(dir);
            fs::create_dir_all(&dir)
                .with_context(|| format!("failed to make {}", dir.display()))?;
        }
        fs::create_dir_all("/var/lib/cni")?;
        fs::create_dir_all("/var/lib/peerrelay")?;
        // Kubelets keep the socket for device plugins there, whatever their root directory.
        fs::create_dir_all("/var/lib/kubelet")?;
        let mounted = self.dir.join("mounted");
        fs::remove_file(&mounted).ok();
        let dir = self.dir.display().to_string();
        let unshare = find(Path::new("unshare")).context("failed to find unshare")?;
        let holder = Spec::new(self.part("mounts"), self.machine.namespace, &unshare)
            .args(["--mount", "--", "sh", "-c", MOUNTS, "sh", &dir])
            .cgroups(cgroup::create(self.machine.namespace)?);
        self.processes
            .start(&holder)?
            .wait_until(RUNTIME_READY, || {
                mounted
                    .exists()
                    .then_some(())
                    .context("its mounts are missing")
            })?;
        let config = self.dir.join("containerd.toml");
        write_private(&config, config::containerd(&self.dir))?;
        write_private(
            &self.cni_directory()?.join("10-bridge.conflist"),
            config::cni(self),
        )?;
        self.start_containerd()?;
        self.import(archive)?;
        progress.line(format_args!(
            "containerd of node {} ready",
            self.machine.name
        ));
        Ok(())
    }

    /// Stops containerd; containers keep running.
    pub fn stop_containerd(&self) -> Result<()> {
        self.processes.stop(&self.part("containerd"))
    }

    /// Starts containerd again after it was stopped.
    pub fn start_containerd(&self) -> Result<()> {
        let containerd = find(Path::new("containerd")).context("failed to find containerd")?;
        let config = self.dir.join("containerd.toml").display().to_string();
        let spec = self
            .spec("containerd", &containerd)?
            .args(["--config", &config]);
        self.processes
            .start(&spec)?
            .wait_until(RUNTIME_READY, || self.ctr(["version"]).map(drop))
    }

    /// Starts kubelet and kube-proxy, once the API server answers.
    pub(super) fn start_kubernetes(&self) -> Result<()> {
        let config = config::kubelet(self);
        write_private(
            &self.dir.join("kubelet.json"),
            serde_json::to_vec_pretty(&config)?,
        )?;
        self.start_kubelet()?;
        let proxy = self.tools.program("kube-proxy");
        let spec = Spec::new(self.part("kube-proxy"), self.machine.namespace, &proxy).args([
            "--proxy-mode=nftables",
            "--oom-score-adj=0",
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
            &format!("--hostname-override={}", self.machine.name),
            &format!(
                "--kubeconfig={}",
                self.pki.kubeconfig("kube-proxy").display()
            ),
        ]);
        self.processes.start(&spec)?;
        Ok(())
    }

    /// Starts the kubelet, also after it was stopped.
    pub fn start_kubelet(&self) -> Result<()> {
        let kubelet = self.tools.program("kubelet");
        let file = |name: &str| self.dir.join(name).display().to_string();
        let spec = self.spec("kubelet", &kubelet)?.args([
            format!("--config={}", file("kubelet.json")),
            format!("--root-dir={}", file("kubelet")),
            format!(
                "--kubeconfig={}",
                self.pki.kubeconfig(self.machine.name).display()
            ),
            format!("--hostname-override={}", self.machine.name),
            format!("--node-ip={},{}", self.machine.v4, self.machine.v6),
        ]);
        self.processes.start(&spec)?;
        Ok(())
    }

    /// Stops the kubelet; its pods keep running.
    pub fn stop_kubelet(&self) -> Result<()> {
        self.processes.stop(&self.part("kubelet"))
    }

    /// Starts a kubelet again that ended because its node was not there yet.
    pub(super) fn revive_kubelet(&self) -> Result<()> {
        let Some(record) = self.record("kubelet").filter(|record| !record.alive()) else {
            return Ok(());
        };
        if !record.log_tail().contains("failed to initialize CSINode") {
            bail!("the kubelet has ended:\n{}", record.log_tail());
        }
        self.start_kubelet()
    }

    /// Runs ctr on the node's images and containers.
    pub fn ctr<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let mut ctr = program("ctr");
        ctr.arg("--address").arg(self.dir.join("containerd.sock"));
        run(ctr.args(["--namespace", "k8s.io"]).args(args))
    }

    /// Imports an image archive.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let archive = archive.display().to_string();
        self.ctr(["images", "import", &archive])
            .map(drop)
            .with_context(|| format!("failed to import images on {}", self.machine.name))
    }

    /// The name of a part of the node in logs and records.
    pub fn part(&self, program: &str) -> String {
        format!("{program}-{}", self.machine.name)
    }

    fn record(&self, program: &str) -> Option<ProcessRecord> {
        self.processes.find(&self.part(program))
    }

    /// A program with the node's network, mounts and control groups.
    fn spec(&self, name: &str, program: &Path) -> Result<Spec> {
        let holder = self.record("mounts").context("the node has no mounts")?;
        Ok(Spec::new(self.part(name), self.machine.namespace, program)
            .mounts_of(holder.pid)
            .cgroups(cgroup::create(self.machine.namespace)?))
    }

    fn cni_directory(&self) -> Result<PathBuf> {
        let dir = self.dir.join("cni-conf");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}
