//! The control plane of the cluster, in the router's namespace.

use std::time::Duration;

use anyhow::Result;

use crate::{
    audit,
    control_plane::{Component, Placement},
    net::ROUTER,
    pki::Pki,
    process::{ProcessRecord, Processes, Spec},
    progress::Progress,
    state::write_private,
    tools::Tools,
};

/// The longest time until the API server answers.
const READY: Duration = Duration::from_secs(60);

/// Starts the control plane; `probe` succeeds once the API server answers.
pub(super) fn start(
    processes: &Processes,
    pki: &Pki,
    tools: &Tools,
    progress: &Progress,
    probe: impl FnMut() -> Result<()>,
) -> Result<()> {
    let policy = pki.path("audit-policy.json");
    write_private(&policy, audit::policy().to_string())?;
    let placement = Placement::rig(pki, audit::flags(&policy, &processes.log("audit")));
    run(processes, placement.etcd(tools))?;
    let api_server = run(processes, placement.api_server(tools))?;
    api_server.wait_until(READY, probe)?;
    progress.line("kube-apiserver ready");
    let controllers = pki.kubeconfig("controller-manager");
    run(processes, placement.controller_manager(tools, &controllers))?;
    run(
        processes,
        placement.scheduler(tools, &pki.kubeconfig("scheduler")),
    )?;
    Ok(())
}

fn run(processes: &Processes, component: Component) -> Result<ProcessRecord> {
    let spec = Spec::new(component.name, ROUTER, &component.path);
    processes.start(&spec.args(component.args))
}
