//! The parts of a relay, each put to work under the supervisor.

use std::sync::Arc;

use anyhow::anyhow;
use tokio::sync::watch;

use super::{
    addresses::EndpointPublisher, bootstrap::Bootstrap, data_path, metrics, metrics_server,
    options::RelayOptions, probe::Probing, reload::DynamicConfig, report::Reporter, sessions,
    socket_path::SocketPathHandle, state::RelayState, tailnet::Tailnet, withdrawal,
};
use crate::{
    admin::{Ready, Render},
    memory,
    supervisor::Supervisor,
};

/// Puts every part to work, in the order in which they need each other; returns what the
/// configuration says from now on.
pub(super) async fn run(
    supervisor: &mut Supervisor,
    options: RelayOptions,
    bootstrap: Bootstrap,
    state: &watch::Sender<RelayState>,
) -> anyhow::Result<watch::Receiver<DynamicConfig>> {
    let Bootstrap {
        dialer,
        kernel,
        identity,
        file,
        socket_path,
        ended,
        ..
    } = bootstrap;
    let saved = socket_path.clone();
    supervisor.spawn("sessions", async move {
        file.keep(saved).await;
        Ok::<_, anyhow::Error>(())
    });
    supervisor.spawn("data path", async {
        ended.await.map_err(|_| anyhow!("thread died"))
    });
    let answers = answers(&options, &socket_path, state);
    metrics_server::serve(supervisor, &options, answers, state.clone()).await?;
    let (dynamic_config, changes) = watch::channel(DynamicConfig {
        endpoints: options.endpoints.clone(),
        log_level: options.log_level,
        clients: options.clients.clone(),
        unknown: options.reload.unknown.clone(),
        ..DynamicConfig::default()
    });
    crate::logging::set_level(options.log_level);
    let reload = options
        .reload
        .clone()
        .follow(options.report.clone(), dynamic_config);
    supervisor.spawn("configuration", reload);
    let publisher = EndpointPublisher {
        dynamic_config: changes.clone(),
        node: options.node_name.clone(),
        socket_path: socket_path.clone(),
        state: state.clone(),
    };
    supervisor.spawn("endpoints", publisher.run());
    let withdrawal = withdrawal::follow(changes.clone(), socket_path.clone(), state.clone());
    supervisor.spawn("withdrawal", withdrawal);
    let joined = state.subscribe();
    let ready = move || {
        let mut state = joined.clone();
        async move { state.wait_for(RelayState::ready).await.is_ok() }
    };
    supervisor.spawn("memory", memory::release_when_ready(ready));
    let path = data_path::watch(options.data_path, kernel, socket_path.port(), state.clone());
    supervisor.spawn("kernel path", path);
    if options.tailnet.control_url.scheme() == "http" {
        tracing::warn!("control is reached without TLS: only for a network that you trust");
    }
    let name = &options.tailnet.hostname;
    let (version, port) = (env!("CARGO_PKG_VERSION"), options.port);
    tracing::info!(version, hostname = name, port, metrics = %options.metrics_addr, "relay starts");
    if let Some(report) = options.report {
        let reporter = Reporter::new(report).await?;
        let dynamic_config = changes.clone();
        let probing = Probing::new(
            reporter.name(),
            socket_path.clone(),
            dynamic_config,
            state.clone(),
        );
        supervisor.spawn("probes", probing.run());
        supervisor.spawn("report", reporter.run(state.subscribe()));
    }
    let tailnet = Tailnet::new(
        options.tailnet,
        identity,
        dialer,
        socket_path.clone(),
        state.clone(),
        changes.clone(),
    );
    match sessions::serve(
        &options.session_dir,
        socket_path.clone(),
        tailnet.directory(),
    ) {
        Ok(server) => supervisor.spawn("sessions server", server),
        Err(error) => tracing::warn!(%error, "'peerrelay sessions' cannot ask this relay"),
    }
    supervisor.spawn("tailnet", async {
        tailnet.run().await;
        Ok::<_, anyhow::Error>(())
    });
    Ok(changes)
}

/// What the relay answers to `/metrics` and `/readyz`.
fn answers(
    options: &RelayOptions,
    socket_path: &SocketPathHandle,
    state: &watch::Sender<RelayState>,
) -> (Render, Ready) {
    let (region, socket_path) = (options.region.clone(), socket_path.clone());
    let (metrics_state, ready_state) = (state.subscribe(), state.subscribe());
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
            .map(|p| format!("; {p}"))
            .unwrap_or_default();
        Err(format!("not ready, missing: {missing}{problem}"))
    });
    (metrics, ready)
}
