//! The operator as a process of its own, that speaks to the API server through a proxy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;

use rig::{control_plane::bound, names::OPERATOR_NAMESPACE};

use super::{
    control_plane::{ChildGuard, ControlPlane},
    proxy::{Proxy, Recorder},
};

/// An image that relays would run.
pub const IMAGE: &str = "example.test/peerrelay:1";

/// An operator that can be killed and started again.
#[derive(Debug)]
pub struct Operator {
    /// Image that it gives to relays.
    pub image: String,
    name: String,
    program: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
    process: Option<ChildGuard>,
    _proxy: Proxy,
}

impl Operator {
    /// Prepares the operator called `name`, with the permissions of the chart and no others.
    pub async fn new(
        control_plane: &ControlPlane,
        recorder: &Recorder,
        program: &Path,
        name: &str,
    ) -> Result<Self> {
        let proxy = Proxy::start(
            recorder,
            &control_plane.upstream,
            &control_plane.server,
            name,
        )
        .await?;
        let token = control_plane.operator_token().await?;
        let kubeconfig =
            control_plane.kubeconfig(name, &format!("http://{}", proxy.address), &token)?;
        Ok(Self {
            image: IMAGE.into(),
            name: name.into(),
            program: program.into(),
            kubeconfig,
            log: control_plane.dir().join(format!("operator-{name}.log")),
            process: None,
            _proxy: proxy,
        })
    }

    /// Starts the operator.
    pub fn start(&mut self) -> Result<()> {
        let mut command = bound(&self.program);
        command
            .args(["operator", "--metrics-addr", "127.0.0.1:0"])
            .args(["--lease-namespace", OPERATOR_NAMESPACE])
            // A container that is started again keeps its name, and with it the lease.
            .args(["--identity", &self.name, "--relay-image", &self.image])
            .env("KUBECONFIG", &self.kubeconfig)
            .env("PEERRELAY_LOG", "info")
            // The reason is what its last lines are to say.
            .env("RUST_BACKTRACE", "0");
        self.process = Some(ChildGuard::start(&mut command, &self.log)?);
        Ok(())
    }

    /// Kills the operator.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Says whether the operator runs.
    pub fn alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(ChildGuard::alive)
    }

    /// Starts it again when it has ended because it could not renew its lease, as the node of a real
    /// one does: a machine with too much to do, or an API server that is away, leads to that.
    pub fn revive(&mut self) -> Result<()> {
        if self.process.is_some() && !self.alive() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if log
                .lines()
                .last()
                .is_some_and(|line| line.contains("lost the lease"))
            {
                return self.start();
            }
        }
        Ok(())
    }

    /// The process id of the operator, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ChildGuard::pid)
    }

    /// Resident memory in KiB, and the most that it ever was.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let pid = self.pid()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// The line of its log about a broken invariant, if there is one.
    pub fn panicked(&self) -> Option<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("panicked at"));
        line.map(str::to_owned)
    }

    /// The last lines that it logged.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}
