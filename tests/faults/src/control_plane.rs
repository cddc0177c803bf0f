//! A control plane without nodes: etcd, API server, controller manager, on loopback, for one run.
//!
//! Needs no root and no network of its own, and is there in seconds.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rig::{
    command::{program, run},
    control_plane::{Component, Placement},
    names::{CHART, OPERATOR_NAMESPACE},
    pki::{Pki, random_token},
    state::{repository, write_private},
    tools::Tools,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::api::{self, Api, Upstream};

/// A machine with other things to do takes minutes.
const READY: Duration = Duration::from_secs(300);
/// Controllers that act on what the operator makes.
const CONTROLLERS: &str = "daemonset-controller,garbage-collector-controller,\
    endpointslice-controller,endpoints-controller,disruption-controller,namespace-controller";

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// Speaks to it as administrator.
    pub api: Api,
    /// Connections to it.
    pub upstream: Upstream,
    /// The URL of the API server.
    pub server: String,
    /// Rules that the chart gives the operator.
    pub rules: Vec<Value>,
    placement: Placement,
    api_server: ChildGuard,
    api_server_command: Component,
    _others: Vec<ChildGuard>,
    dir: TempDir,
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
pub struct ChildGuard(Child);

impl ChildGuard {
    /// Starts a program that also ends when this process is killed.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        Ok(Self(command.spawn().context("failed to start a program")?))
    }

    /// The process id of the child.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Says whether the child still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Kills the child.
    pub fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ControlPlane {
    /// Starts it, and gives the operator what its chart gives.
    pub async fn start(tools: &Tools) -> Result<Self> {
        let (mut control_plane, token) = Self::without_controllers(tools).await?;
        control_plane.install(tools).await?;
        // Started last: the garbage collector must find the custom resources at its first look.
        control_plane.start_controllers(tools, &token)?;
        Ok(control_plane)
    }

    /// Starts it without the operator's objects; the administrator's kubeconfig, too.
    pub async fn empty(tools: &Tools) -> Result<(Self, PathBuf)> {
        let (mut control_plane, token) = Self::without_controllers(tools).await?;
        let kubeconfig = control_plane.start_controllers(tools, &token)?;
        Ok((control_plane, kubeconfig))
    }

    fn start_controllers(&mut self, tools: &Tools, token: &str) -> Result<PathBuf> {
        let kubeconfig = self.kubeconfig("admin", &self.server, token)?;
        let component = self.placement.controller_manager(tools, &kubeconfig);
        self._others.push(start(&component, self.dir.path())?);
        Ok(kubeconfig)
    }

    /// Starts etcd and the API server; gives the administrator's token, too.
    async fn without_controllers(tools: &Tools) -> Result<(Self, String)> {
        let dir = TempDir::with_prefix("peerrelay-plane-")?;
        let token = random_token()?;
        let tokens = dir.path().join("tokens.csv");
        write_private(&tokens, format!("{token},admin,admin,system:masters\n"))?;
        let pki = Pki::create_loopback(dir.path())?;
        let placement = Placement::loopback(&pki, &tokens, CONTROLLERS)?;
        let etcd = start(&placement.etcd(tools), dir.path())?;
        let api_server_command = placement.api_server(tools);
        let api_server = start(&api_server_command, dir.path())?;
        let server = placement.server();
        let upstream = api::upstream(&pki.ca())?;
        let mut control_plane = Self {
            api: Api::new(upstream.clone(), &server, &token),
            upstream,
            server,
            rules: Vec::new(),
            placement,
            api_server,
            api_server_command,
            _others: vec![etcd],
            dir,
        };
        control_plane.wait_ready().await?;
        Ok((control_plane, token))
    }

    /// Ends the API server as a crash would, and starts it again.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.kill();
        self.api_server = start(&self.api_server_command, self.dir.path())?;
        self.wait_ready().await
    }

    /// Directory for files of this run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the kubeconfig of a user.
    pub fn kubeconfig(&self, name: &str, server: &str, token: &str) -> Result<PathBuf> {
        self.placement
            .pki()
            .write_token_kubeconfig(name, server, token)
    }

    /// A token of the operator's own ServiceAccount.
    pub async fn operator_token(&self) -> Result<String> {
        let path = format!("/api/v1/namespaces/{OPERATOR_NAMESPACE}/serviceaccounts/{CHART}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 36_000},
        });
        let answer = self.api.create(&path, &request).await?;
        let token = answer["status"]["token"].as_str();
        token.map(str::to_owned).context("no token in the answer")
    }

    /// A namespace that lets relays run.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {
                "pod-security.kubernetes.io/enforce": "privileged",
            }},
        });
        self.api.apply(&namespace).await?;
        // No controller makes it here, and pods of other kinds are not wanted.
        Ok(())
    }

    /// A node of which only the API knows.
    pub async fn node(&self, name: &str) -> Result<()> {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        });
        self.api.apply(&node).await.map(drop)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            rig::signals::check()?;
            if let Ok(Value::String(said)) = self.api.read("/readyz").await
                && said == "ok"
            {
                return Ok(());
            }
            if !self.api_server.alive() || start.elapsed() > READY {
                let log = fs::read_to_string(log_file(self.dir.path(), &self.api_server_command))?;
                let lines: Vec<_> = log.lines().rev().take(15).collect();
                bail!(
                    "kube-apiserver is not ready; its log ends with\n{}",
                    lines.join("\n")
                );
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Applies the chart, except what runs pods.
    async fn install(&mut self, tools: &Tools) -> Result<()> {
        self.api.discover().await?;
        self.namespace(OPERATOR_NAMESPACE).await?;
        let chart = repository().join("charts").join(CHART);
        let mut helm = program(tools.program("helm"));
        helm.args(["template", CHART, &chart.display().to_string()])
            .args(["--namespace", OPERATOR_NAMESPACE])
            .args(["--set", "image.repository=example.test/peerrelay"]);
        let rendered = run(&mut helm)?;
        let mut definitions = Vec::new();
        for document in serde_yaml::Deserializer::from_str(&rendered) {
            let mut object = Value::deserialize(document)?;
            match object["kind"].as_str().unwrap_or_default() {
                "" | "Deployment" | "PodDisruptionBudget" | "Service" => continue,
                "CustomResourceDefinition" => {
                    definitions.push(
                        object["metadata"]["name"]
                            .as_str()
                            .unwrap_or_default()
                            .to_owned(),
                    );
                }
                "ClusterRole" if object["metadata"]["name"] == CHART => {
                    self.rules = object["rules"].as_array().cloned().unwrap_or_default();
                }
                _ => {}
            }
            strip_nulls(&mut object);
            self.api.apply(&object).await?;
        }
        for name in definitions {
            let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
            self.wait_established(&path).await?;
        }
        self.wait_served().await
    }

    /// Waits until the API server has accepted a definition of custom resources.
    async fn wait_established(&self, path: &str) -> Result<()> {
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        let start = Instant::now();
        loop {
            let definition = self.api.read(path).await?;
            let conditions = definition["status"]["conditions"].as_array();
            if conditions.is_some_and(|all| all.iter().any(established)) {
                return Ok(());
            }
            if start.elapsed() > READY {
                bail!("{path} is not established");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the API server serves PeerRelays, which is a moment after their definition is
    /// established.
    async fn wait_served(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            self.api.discover().await?;
            if self.api.resource("peerrelay.dev", "peerrelays").is_some() {
                return Ok(());
            }
            if start.elapsed() > READY {
                bail!("peerrelays are not served");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Starts a component that logs into a file in `dir`.
fn start(component: &Component, dir: &Path) -> Result<ChildGuard> {
    ChildGuard::start(&mut component.bound_command(), &log_file(dir, component))
}

fn log_file(dir: &Path, component: &Component) -> PathBuf {
    dir.join(format!("{}.log", component.name))
}

/// A chart may render empty fields.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
