//! The relay: a tailnet node that forwards datagrams between clients.

pub mod addresses;
mod data_path;
pub mod grant;
pub mod kernel;
pub mod metrics;
pub mod options;
pub mod probe;
pub mod reload;
pub mod report;
pub mod shard;
pub mod socket;
pub mod state;
pub mod tailnet;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use tokio::{sync::watch, time::sleep};

use self::{
    addresses::Keeper,
    kernel::KernelPath,
    options::RelayOptions,
    probe::Probing,
    reload::Live,
    report::Reporter,
    shard::{ShardHandle, ShardOptions},
    state::RelayState,
    tailnet::{Dialer, Identity, Tailnet},
};
use crate::{
    admin::{self, Probes},
    supervisor::Supervisor,
};

/// Longest time between a stop signal and the end, while sessions are open.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs a relay until it is told to stop.
///
/// # Errors
/// What was given cannot work, or a part of the relay has failed; the text names the fix.
pub async fn run(options: RelayOptions) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let identity = Identity::load(&options.state_dir)?;
    let dialer = Dialer::new(options.ca_file.as_deref())?;
    let kernel = data_path::start(&options);
    let (shard, shard_ended) =
        shard::spawn(shard_options(&options, &identity, kernel.as_ref().ok()))
            .context("failed to start the data path")?;
    let (state, _) = watch::channel(RelayState::default());

    supervisor.spawn("data path", async {
        shard_ended.await.map_err(|_| anyhow!("thread died"))
    });
    let server = admin::bind(options.metrics_addr, probes(&options, &shard, &state)).await?;
    supervisor.spawn("metrics server", server);
    let (live, changes) = watch::channel(Live {
        endpoints: options.endpoints.clone(),
        peers: Vec::new(),
    });
    let reload = options.reload.clone().follow(options.report.clone(), live);
    supervisor.spawn("configuration", reload);
    let keeper = Keeper {
        live: changes.clone(),
        node: options.node_name.clone(),
        shard: shard.clone(),
        state: state.clone(),
    };
    supervisor.spawn("endpoints", keeper.run());
    let path = data_path::watch(
        options.data_path,
        kernel.clone(),
        shard.port(),
        state.clone(),
    );
    supervisor.spawn("kernel path", path);
    if options.tailnet.control_url.scheme() == "http" {
        tracing::warn!("control is reached without TLS: only for a network that you trust");
    }
    let name = &options.tailnet.hostname;
    let (version, port) = (env!("CARGO_PKG_VERSION"), options.port);
    tracing::info!(version, hostname = name, port, metrics = %options.metrics_addr, "relay starts");
    if let Some(report) = options.report {
        let reporter = Reporter::new(report).await?;
        let probing = Probing::new(reporter.name(), shard.clone(), changes, state.clone());
        supervisor.spawn("probes", probing.run());
        supervisor.spawn("report", reporter.run(state.subscribe()));
    }
    let tailnet = Tailnet::new(
        options.tailnet,
        identity,
        dialer,
        shard.clone(),
        state.clone(),
    );
    supervisor.spawn("tailnet", async {
        tailnet.run().await;
        Ok::<_, anyhow::Error>(())
    });

    let ended = supervisor.run(drain(&shard, &state), DRAIN).await;
    if let Ok(kernel) = kernel {
        kernel.stop(true);
    }
    ended
}

/// LamportIDs start at the clock: the server key is new with each start, so nothing depends on it
/// but the order in which people see allocations.
fn shard_options(
    options: &RelayOptions,
    identity: &Identity,
    kernel: Option<&KernelPath>,
) -> ShardOptions {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ShardOptions {
        port: options.port,
        threads: options.threads,
        config: options.limits.clone(),
        keys: identity.relay_keys(),
        seed: rand::random(),
        first_lamport: u64::try_from(clock.as_micros()).unwrap_or(1),
        kernel: kernel.cloned(),
    }
}

fn probes(
    options: &RelayOptions,
    shard: &ShardHandle,
    state: &watch::Sender<RelayState>,
) -> Probes {
    let (region, shard) = (options.region.clone(), shard.clone());
    let (metrics_state, ready_state) = (state.subscribe(), state.subscribe());
    Probes {
        metrics: std::sync::Arc::new(move || {
            let (region, shard) = (region.clone(), shard.clone());
            let state = metrics_state.borrow().clone();
            Box::pin(async move { metrics::render(&region, &state, &shard.snapshot().await) })
        }),
        ready: std::sync::Arc::new(move || {
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
        }),
    }
}

/// Gives out no further session, and waits for the open ones to end.
async fn drain(shard: &ShardHandle, state: &watch::Sender<RelayState>) {
    shard.drain();
    state.send_modify(|state| state.draining = true);
    while shard.snapshot().await.sessions.open > 0 {
        sleep(Duration::from_millis(200)).await;
    }
}
