//! The tasks of a relay.

use std::{convert::Infallible, sync::Arc};

use futures::future::OptionFuture;
use tokio::sync::watch;

use super::{
    addresses::EndpointPublisher,
    bootstrap::Bootstrap,
    data_path, metrics, metrics_server,
    options::RelayOptions,
    probe::Probing,
    reload::DynamicConfig,
    report::Reporter,
    sessions,
    socket_path::SocketPathHandle,
    state::{RelayState, StateParts},
    tailnet::{Tailnet, TailnetSenders},
    withdrawal,
};
use crate::{
    admin::{NotReady, Ready, Render},
    logging, memory,
    supervisor::Supervisor,
};

/// Starts every task under `supervisor`, in the order in which they need each other. Returns the
/// configuration as it changes from now on.
///
/// # Errors
/// The metrics port cannot be bound, or this is no pod although a report is configured.
pub(super) async fn start(
    supervisor: &mut Supervisor,
    bootstrap: Bootstrap,
    parts: &StateParts,
) -> anyhow::Result<watch::Receiver<DynamicConfig>> {
    let (options, socket_path) = (bootstrap.options, bootstrap.socket_path);
    let path = || socket_path.clone();
    let (state_sender, state) = watch::channel(RelayState::default());
    let (config_sender, config) = watch::channel(options.dynamic_config());
    let stun_servers = watch::Sender::default();
    logging::set_level(options.log_level);
    log_start(&options);
    supervisor.spawn("socket path", bootstrap.driver.run());
    supervisor.spawn("session file", bootstrap.file.keep(path()));
    supervisor.spawn("state", parts.clone().publish(state_sender));
    let answers = answers(&options, &socket_path, &state);
    metrics_server::serve(supervisor, &options, answers, parts.metrics_problem.clone()).await?;
    let reload = options.reload.clone();
    let reload = reload.follow(options.report.clone(), config_sender);
    supervisor.spawn("configuration", reload);
    let reporter = OptionFuture::from(options.report.map(Reporter::new)).await;
    let reporter = reporter.transpose()?;
    let endpoints = EndpointPublisher {
        dynamic_config: config.clone(),
        node: options.node_name.clone(),
        relay: reporter.as_ref().map(Reporter::name),
        socket_path: path(),
        stun_servers: stun_servers.subscribe(),
        state: parts.endpoints.clone(),
    };
    supervisor.spawn("endpoints", endpoints.run());
    let counts = sessions::count(path(), parts.sessions.clone());
    supervisor.spawn("session counts", counts);
    let withdrawal = withdrawal::follow(config.clone(), path(), parts.withdrawal.clone());
    supervisor.spawn("withdrawal", withdrawal);
    supervisor.spawn("memory", release_memory(state.clone()));
    let (wanted, sender) = (options.data_path, parts.data_path.clone());
    let data_path = data_path::follow(wanted, bootstrap.kernel, socket_path.port(), sender);
    supervisor.spawn("kernel path", data_path);
    if let Some(reporter) = reporter {
        let (name, probes) = (reporter.name(), parts.probes.clone());
        let probing = Probing::new(name, path(), config.clone(), probes);
        supervisor.spawn("probes", probing.run());
        supervisor.spawn("report", reporter.run(state));
    }
    let senders = TailnetSenders {
        control: parts.control.clone(),
        derp: parts.derp.clone(),
        stun_servers,
    };
    let (identity, dialer) = (bootstrap.identity, bootstrap.dialer);
    let changes = config.clone();
    let tailnet = Tailnet::new(options.tailnet, identity, dialer, path(), senders, changes);
    match sessions::serve(&options.session_dir, path(), tailnet.directory()) {
        Ok(server) => supervisor.spawn("sessions server", server),
        Err(error) => tracing::warn!(%error, "'peerrelay sessions' cannot ask this relay"),
    }
    supervisor.spawn("tailnet", tailnet.run());
    Ok(config)
}

/// Releases memory that only the start needs, once the relay is ready.
async fn release_memory(state: watch::Receiver<RelayState>) -> Result<Infallible, Infallible> {
    let ready = || {
        let mut state = state.clone();
        async move { state.wait_for(RelayState::ready).await.is_ok() }
    };
    memory::release_when_ready(ready).await
}

fn log_start(options: &RelayOptions) {
    if options.tailnet.control_url.scheme() == "http" {
        tracing::warn!("control is reached without TLS: only for a network that you trust");
    }
    let (version, hostname) = (env!("CARGO_PKG_VERSION"), &options.tailnet.hostname);
    let (port, metrics) = (options.port, options.metrics_addr);
    tracing::info!(version, hostname, port, %metrics, "relay starts");
}

/// Answers to `/metrics` and `/readyz`.
fn answers(
    options: &RelayOptions,
    socket_path: &SocketPathHandle,
    state: &watch::Receiver<RelayState>,
) -> (Render, Ready) {
    let (region, socket_path) = (options.region.clone(), socket_path.clone());
    let (metrics_state, ready_state) = (state.clone(), state.clone());
    let metrics: Render = Arc::new(move || {
        let (region, socket_path) = (region.clone(), socket_path.clone());
        let state = metrics_state.borrow().clone();
        Box::pin(async move { metrics::render(&region, &state, &socket_path.snapshot().await) })
    });
    let ready: Ready = Arc::new(move || {
        let state = ready_state.borrow();
        if state.ready() {
            return Ok(());
        }
        let missing = state.missing().join(", ");
        let problem = state
            .problem()
            .map(|problem| format!("; {problem}"))
            .unwrap_or_default();
        Err(NotReady(format!("not ready, missing: {missing}{problem}")))
    });
    (metrics, ready)
}
