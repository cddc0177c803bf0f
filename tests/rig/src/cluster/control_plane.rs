//! etcd, API server, controller manager and scheduler, in the router's namespace.

use std::time::Duration;

use anyhow::Result;

use crate::audit;
use crate::net::{ROUTER, ROUTER_V4};
use crate::pki::Pki;
use crate::process::{Processes, Record, Spec};
use crate::progress::Progress;
use crate::state::write_private;
use crate::tools::Tools;

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
const READY: Duration = Duration::from_secs(60);

/// Starts the control plane; `probe` succeeds once the API server answers.
pub(super) fn start(
    processes: &Processes,
    pki: &Pki,
    tools: &Tools,
    progress: &Progress,
    probe: impl FnMut() -> Result<()>,
) -> Result<()> {
    let spec = |name: &str| Spec::new(name, ROUTER, &tools.program(name));
    // It lives as long as the rig: durable writes would only cost time.
    let data = pki.path("../etcd").display().to_string();
    processes.start(&spec("etcd").args([
        "--unsafe-no-fsync",
        "--log-level=warn",
        &format!("--data-dir={data}"),
        &format!("--listen-client-urls={ETCD}"),
        &format!("--advertise-client-urls={ETCD}"),
        &format!("--listen-peer-urls={ETCD_PEER}"),
        &format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        &format!("--initial-cluster=default={ETCD_PEER}"),
    ]))?;
    let api_server = start_api_server(processes, pki, spec("kube-apiserver"))?;
    api_server.wait_until(READY, probe)?;
    progress.line("kube-apiserver ready");
    let key = pki.path("service-account.key");
    processes.start(&spec("kube-controller-manager").args([
        "--leader-elect=false",
        "--use-service-account-credentials",
        &format!(
            "--kubeconfig={}",
            pki.kubeconfig("controller-manager").display()
        ),
        &format!("--service-account-private-key-file={}", key.display()),
        &format!("--root-ca-file={}", pki.ca().display()),
    ]))?;
    processes.start(&spec("kube-scheduler").args([
        "--leader-elect=false",
        &format!("--kubeconfig={}", pki.kubeconfig("scheduler").display()),
    ]))?;
    Ok(())
}

fn start_api_server(processes: &Processes, pki: &Pki, spec: Spec) -> Result<Record> {
    let file = |name: &str| pki.path(name).display().to_string();
    let policy = pki.path("audit-policy.json");
    write_private(&policy, audit::policy().to_string())?;
    let spec = spec.args(audit::flags(&policy, &processes.log("audit")));
    processes.start(&spec.args([
        "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/108",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--profiling=false",
        &format!("--etcd-servers={ETCD}"),
        &format!("--advertise-address={ROUTER_V4}"),
        &format!("--client-ca-file={}", file("ca.crt")),
        &format!("--tls-cert-file={}", file("apiserver.crt")),
        &format!("--tls-private-key-file={}", file("apiserver.key")),
        &format!("--kubelet-certificate-authority={}", file("ca.crt")),
        &format!(
            "--kubelet-client-certificate={}",
            file("kubelet-client.crt")
        ),
        &format!("--kubelet-client-key={}", file("kubelet-client.key")),
        &format!("--service-account-key-file={}", file("service-account.pub")),
        &format!(
            "--service-account-signing-key-file={}",
            file("service-account.key")
        ),
    ]))
}
