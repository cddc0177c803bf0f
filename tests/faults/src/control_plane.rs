//! A control plane without nodes: etcd, API server, controller manager, on loopback, for one run.
//!
//! Needs no root and no network of its own, and is there in seconds.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rig::command::{program, run};
use rig::state::{repository, write_private};
use rig::tools::Tools;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::api::{self, Api, Upstream};

/// Namespace of the operator, and name of its chart.
pub const OPERATOR_NAMESPACE: &str = "peerrelay-system";
const CHART: &str = "peerrelay-operator";
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
    /// Where it is.
    pub server: String,
    /// Rules that the chart gives the operator.
    pub rules: Vec<Value>,
    api_server: ChildGuard,
    api_server_command: Vec<String>,
    _others: Vec<ChildGuard>,
    dir: TempDir,
}

/// A child that ends with this.
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

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Says whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Ends it as a crash would.
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

/// A program that dies with the thread that started it, whatever happens to this process.
pub fn bound(path: &Path) -> Command {
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(path);
    command
}

impl ControlPlane {
    /// Starts it, and gives the operator what its chart gives.
    pub async fn start(tools: &Tools) -> Result<Self> {
        let (mut plane, token) = Self::without_controllers(tools).await?;
        plane.install(tools).await?;
        // Started last: the garbage collector must find the custom resources at its first look.
        plane.start_controllers(tools, &token)?;
        Ok(plane)
    }

    /// Starts it without the operator's objects; the administrator's kubeconfig, too.
    pub async fn empty(tools: &Tools) -> Result<(Self, PathBuf)> {
        let (mut plane, token) = Self::without_controllers(tools).await?;
        let kubeconfig = plane.start_controllers(tools, &token)?;
        Ok((plane, kubeconfig))
    }

    fn start_controllers(&mut self, tools: &Tools, token: &str) -> Result<PathBuf> {
        let kubeconfig = self.kubeconfig("admin", &self.server, token)?;
        let mut command = bound(&tools.program("kube-controller-manager"));
        command.args([
            "--leader-elect=false".into(),
            "--secure-port=0".into(),
            format!("--controllers={CONTROLLERS}"),
            "--kube-api-qps=1000".into(),
            "--kube-api-burst=2000".into(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ]);
        let log = self.dir.path().join("controllers.log");
        self._others.push(ChildGuard::start(&mut command, &log)?);
        Ok(kubeconfig)
    }

    /// etcd and API server; the administrator's token, too.
    async fn without_controllers(tools: &Tools) -> Result<(Self, String)> {
        let dir = TempDir::with_prefix("peerrelay-plane-")?;
        let file = |name: &str| dir.path().join(name);
        let token = format!("{:x}", Sha256::digest(KeyPair::generate()?.serialize_der()));
        certificates(dir.path())?;
        write_private(
            &file("tokens.csv"),
            format!("{token},admin,admin,system:masters\n"),
        )?;
        let [etcd, peer, secure] = free_ports()?;
        let etcd_url = format!("http://127.0.0.1:{etcd}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let mut command = bound(&tools.program("etcd"));
        command.args([
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            format!("--data-dir={}", file("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
        ]);
        let etcd = ChildGuard::start(&mut command, &file("etcd.log"))?;
        let path = |name: &str| file(name).display().to_string();
        let api_server_command = vec![
            tools.program("kube-apiserver").display().to_string(),
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={secure}"),
            "--advertise-address=10.96.0.2".into(),
            "--endpoint-reconciler-type=none".into(),
            "--authorization-mode=RBAC".into(),
            "--allow-privileged".into(),
            "--profiling=false".into(),
            // Nodes without a kubelet would never lose the taint.
            "--disable-admission-plugins=TaintNodesByCondition".into(),
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--token-auth-file={}", path("tokens.csv")),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--service-account-key-file={}", path("account.pub")),
            format!("--service-account-signing-key-file={}", path("account.key")),
        ];
        let server = format!("https://127.0.0.1:{secure}");
        let upstream = api::upstream(&file("ca.crt"))?;
        let api_server = start_api_server(&api_server_command, dir.path())?;
        let mut plane = Self {
            api: Api::new(upstream.clone(), &server, &token),
            upstream,
            server,
            rules: Vec::new(),
            api_server,
            api_server_command,
            _others: vec![etcd],
            dir,
        };
        plane.wait_ready().await?;
        Ok((plane, token))
    }

    /// Ends the API server as a crash would, and starts it again.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.api_server.kill();
        self.api_server = start_api_server(&self.api_server_command, self.dir.path())?;
        self.wait_ready().await
    }

    /// Directory for files of this run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the kubeconfig of a user.
    pub fn kubeconfig(&self, name: &str, server: &str, token: &str) -> Result<PathBuf> {
        let mut cluster = json!({"server": server});
        if server.starts_with("https") {
            cluster["certificate-authority"] = json!(self.dir.path().join("ca.crt"));
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "plane",
            "clusters": [{"name": "plane", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": name}}],
        });
        let path = self.dir.path().join(format!("{name}.kubeconfig"));
        write_private(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
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
                let log = fs::read_to_string(self.dir.path().join("apiserver.log"))?;
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
            let start = Instant::now();
            loop {
                let definition = self.api.read(&path).await?;
                let conditions = definition["status"]["conditions"].as_array();
                let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
                if conditions.is_some_and(|all| all.iter().any(established)) {
                    break;
                }
                if start.elapsed() > READY {
                    bail!("{name} is not established");
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        // Served a moment after it is established.
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

fn start_api_server(words: &[String], dir: &Path) -> Result<ChildGuard> {
    let mut command = bound(Path::new(&words[0]));
    command.args(&words[1..]);
    ChildGuard::start(&mut command, &dir.join("apiserver.log"))
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

fn certificates(dir: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let account = KeyPair::generate()?;
    for (name, content) in [
        ("ca.crt", authority.pem()),
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
        ("account.key", account.serialize_pem()),
        ("account.pub", account.public_key_pem()),
    ] {
        write_private(&dir.join(name), content)?;
    }
    Ok(())
}

/// Ports that nobody uses at the moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
