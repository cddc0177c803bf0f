//! Command lines of a Kubernetes control plane, for the place where it runs.
//!
//! There are two placements: the rig's, in the router's namespace with nodes that join it, and one
//! on loopback without nodes. What does not depend on the placement is written here once.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::program,
    net::ROUTER_V4,
    pki::{ACCOUNT_KEY, ACCOUNT_PUBLIC_KEY, Pki},
    tools::Tools,
};

/// A program of the control plane and its arguments.
#[derive(Clone, Debug)]
pub struct Component {
    /// The name of the program.
    pub name: &'static str,
    /// The path of the program.
    pub path: PathBuf,
    /// The arguments of the program.
    pub args: Vec<String>,
}

impl Component {
    /// The command that starts the component; the component ends when the calling thread does.
    pub fn bound_command(&self) -> Command {
        let mut command = bound(&self.path);
        command.args(&self.args);
        command
    }
}

/// A command for a program that the kernel kills when the thread that started it ends.
pub fn bound(path: &Path) -> Command {
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(path);
    command
}

/// A place where a control plane runs: its ports, files, and what the API server demands there.
#[derive(Clone, Debug)]
pub struct Placement {
    /// TCP ports of etcd on loopback: for clients and for peers.
    etcd_ports: [u16; 2],
    /// The directory with etcd's data.
    etcd_data: PathBuf,
    /// The TCP port of the API server.
    port: u16,
    /// Certificates and keys.
    pki: Pki,
    /// Flags of the API server that only this placement has.
    api_server: Vec<String>,
    /// Flags of the controller manager that only this placement has.
    controller_manager: Vec<String>,
}

impl Placement {
    /// The placement in the router's namespace. Clients have certificates, nodes join, Services
    /// have addresses of both IP versions.
    pub fn rig(pki: &Pki, audit: impl IntoIterator<Item = String>) -> Self {
        let file = |name: &str| pki.path(name).display().to_string();
        let mut api_server = vec![
            "--authorization-mode=Node,RBAC".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108".into(),
            format!("--advertise-address={ROUTER_V4}"),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            format!(
                "--kubelet-client-certificate={}",
                file("kubelet-client.crt")
            ),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
        ];
        api_server.extend(audit);
        Self {
            etcd_ports: [2379, 2380],
            etcd_data: pki.path("../etcd"),
            port: 6443,
            pki: pki.clone(),
            api_server,
            controller_manager: vec![
                "--use-service-account-credentials".into(),
                format!("--service-account-private-key-file={}", file(ACCOUNT_KEY)),
                format!("--root-ca-file={}", file("ca.crt")),
            ],
        }
    }

    /// The placement on loopback, with free ports. Clients have the tokens of a file, nodes have no
    /// kubelet, and only the named controllers run.
    pub fn loopback(pki: &Pki, tokens: &Path, controllers: &str) -> Result<Self> {
        let [client, peer, port] = free_ports()?;
        Ok(Self {
            etcd_ports: [client, peer],
            etcd_data: pki.path("etcd"),
            port,
            pki: pki.clone(),
            api_server: vec![
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=10.96.0.2".into(),
                "--endpoint-reconciler-type=none".into(),
                "--authorization-mode=RBAC".into(),
                // A node without a kubelet would keep the taint for good.
                "--disable-admission-plugins=TaintNodesByCondition".into(),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                format!("--token-auth-file={}", tokens.display()),
            ],
            controller_manager: vec![
                "--secure-port=0".into(),
                format!("--controllers={controllers}"),
                "--kube-api-qps=1000".into(),
                "--kube-api-burst=2000".into(),
            ],
        })
    }

    /// The URL of the API server on loopback.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Certificates and keys of the placement.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// etcd, which listens on loopback only.
    pub fn etcd(&self, tools: &Tools) -> Component {
        let [client, peer] = self.etcd_ports.map(loopback_url);
        let args = [
            // The data lives as long as the control plane: durable writes would only cost time.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
            format!("--data-dir={}", self.etcd_data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        component(tools, "etcd", args)
    }

    /// The API server, on all addresses unless the placement says otherwise.
    pub fn api_server(&self, tools: &Tools) -> Component {
        let file = |name: &str| self.pki.path(name).display().to_string();
        let args = [
            format!("--etcd-servers={}", loopback_url(self.etcd_ports[0])),
            format!("--secure-port={}", self.port),
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".into(),
            "--allow-privileged".into(),
            "--profiling=false".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!("--service-account-key-file={}", file(ACCOUNT_PUBLIC_KEY)),
            format!("--service-account-signing-key-file={}", file(ACCOUNT_KEY)),
        ];
        let args = args.into_iter().chain(self.api_server.iter().cloned());
        component(tools, "kube-apiserver", args)
    }

    /// The controller manager, with the identity of a kubeconfig.
    pub fn controller_manager(&self, tools: &Tools, kubeconfig: &Path) -> Component {
        let args = [
            "--leader-elect=false".into(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        let args = args
            .into_iter()
            .chain(self.controller_manager.iter().cloned());
        component(tools, "kube-controller-manager", args)
    }

    /// The scheduler, with the identity of a kubeconfig.
    pub fn scheduler(&self, tools: &Tools, kubeconfig: &Path) -> Component {
        let args = [
            "--leader-elect=false".into(),
            format!("--kubeconfig={}", kubeconfig.display()),
        ];
        component(tools, "kube-scheduler", args)
    }
}

fn component(
    tools: &Tools,
    name: &'static str,
    args: impl IntoIterator<Item = String>,
) -> Component {
    Component {
        name,
        path: tools.program(name),
        args: args.into_iter().collect(),
    }
}

fn loopback_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// TCP ports on loopback that no process uses at the moment.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    // All listeners stay open until the last port is known, so that no port comes twice.
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}
