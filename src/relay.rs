//! The relay: a tailnet node that forwards datagrams between clients.

pub mod addresses;
mod data_path;
pub mod grant;
pub mod kernel;
pub mod metrics;
#[cfg(test)]
mod namespace;
mod netlink;
pub mod options;
pub mod probe;
pub mod reload;
pub mod report;
pub mod sessions;
pub mod shard;
pub mod socket;
pub mod state;
pub mod survival;
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
    shard::{ShardHandle, ShardOptions, SocketSets},
    state::RelayState,
    survival::{Estate, Handover, Heir, Inheritance, SealKey, SessionFile},
    tailnet::{Dialer, Identity, IdentityError, Tailnet},
};
use crate::{
    admin::{self, Probes},
    footprint,
    supervisor::Supervisor,
};

/// Longest time between a stop signal and the end.
const LEAVE: Duration = Duration::from_secs(10);
/// How often, and after which wait, something is tried again that another relay lets go of.
const LET_GO: (u32, Duration) = (200, Duration::from_millis(10));

/// Runs a relay until it is told to stop.
///
/// # Errors
/// What was given cannot work, or a part of the relay has failed; the text names the fix.
pub async fn run(options: RelayOptions) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let dialer = Dialer::new(options.ca_file.as_deref())?;
    let kernel = data_path::start(&options);
    let heir = Heir::ask(&options.session_dir).await;
    let mut identity = identity(&options, heir.is_some()).await?;
    let key = identity.seal_key();
    let file = SessionFile::new(&options.session_dir, key.clone())
        .context("failed to use the session directory: choose a writable one with --session-dir")?;
    let (inheritance, sockets) = inherit(heir, &key, &file).await;
    if let Some(Inheritance { state, .. }) = &inheritance {
        identity.adopt(&state.keys);
    }
    let mut data_path = shard_options(&options, &identity, kernel.as_ref().ok());
    (data_path.inheritance, data_path.sockets) = (inheritance, sockets);
    let (shard, shard_ended) = shard::spawn(data_path).context("failed to start the data path")?;
    let (state, _) = watch::channel(RelayState::default());
    let handover = Handover::listen(&options.session_dir)
        .inspect_err(|error| tracing::warn!(%error, "no other relay can take over from this one"));
    let saved = (file.clone(), shard.clone());
    supervisor.spawn("sessions", async move {
        saved.0.keep(saved.1).await;
        Ok::<_, anyhow::Error>(())
    });

    supervisor.spawn("data path", async {
        shard_ended.await.map_err(|_| anyhow!("thread died"))
    });
    let server = admin_server(&options, &shard, &state).await?;
    supervisor.spawn("metrics server", server);
    if let Some(address) = options.node_metrics_addr {
        let metrics = probes(&options, &shard, &state).metrics;
        supervisor.spawn(
            "metrics server of the node",
            admin::metrics_only(address, metrics),
        );
    }
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
    let joined = state.subscribe();
    let ready = move || {
        let mut state = joined.clone();
        async move { state.wait_for(RelayState::ready).await.is_ok() }
    };
    supervisor.spawn("footprint", footprint::let_go(ready));
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
    match sessions::serve(&options.session_dir, shard.clone(), tailnet.directory()) {
        Ok(server) => supervisor.spawn("sessions server", server),
        Err(error) => tracing::warn!(%error, "'peerrelay sessions' cannot ask this relay"),
    }
    supervisor.spawn("tailnet", async {
        tailnet.run().await;
        Ok::<_, anyhow::Error>(())
    });

    let taken = async {
        match handover {
            Ok(handover) => handover.taken().await,
            Err(_) => std::future::pending().await,
        }
    };
    let taken = tokio::select! {
        ended = supervisor.run(leave(&shard, &state, &file), LEAVE) => Err(ended),
        taken = taken => Ok(taken),
    };
    if let Ok(kernel) = kernel {
        kernel.stop(Some(data_path::LEFT));
    }
    let taken = match taken {
        Ok(taken) => taken,
        Err(ended) => return ended,
    };
    // With the supervisor, everything has gone that the heir needs: lock, control, metrics.
    tracing::info!("another relay takes over");
    taken
        .give(&shard, &key)
        .await
        .context("failed to hand over; sessions go on from the file when a relay starts again")
}

/// The identity; of a relay that hands over, as soon as it has let go of it.
async fn identity(options: &RelayOptions, handed_over: bool) -> anyhow::Result<Identity> {
    for _ in 0..LET_GO.0 {
        match Identity::load(&options.state_dir) {
            Err(IdentityError::InUse { .. }) if handed_over => sleep(LET_GO.1).await,
            result => return Ok(result?),
        }
    }
    Ok(Identity::load(&options.state_dir)?)
}

/// Sessions from a running relay, or from the file of one that has ended.
async fn inherit(
    heir: Option<Heir>,
    key: &SealKey,
    file: &SessionFile,
) -> (Option<Inheritance>, SocketSets) {
    let Some(heir) = heir else {
        return (file.read(), SocketSets::default());
    };
    match heir.take(key).await {
        Ok(Estate {
            inheritance: Ok(inheritance),
            sockets,
        }) => (Some(inheritance), sockets),
        Ok(Estate {
            inheritance: Err(reason),
            ..
        }) => {
            tracing::warn!(%reason, "sessions of the running relay are refused; starting without");
            (None, SocketSets::default())
        }
        Err(error) => {
            tracing::warn!(%error, "the running relay ended before it handed over");
            (file.read(), SocketSets::default())
        }
    }
}

/// The admin server; a relay that hands over may have the address for a moment longer.
async fn admin_server(
    options: &RelayOptions,
    shard: &ShardHandle,
    state: &watch::Sender<RelayState>,
) -> anyhow::Result<impl Future<Output = std::io::Result<()>> + Send + use<>> {
    for _ in 0..LET_GO.0 {
        match admin::bind(options.metrics_addr, probes(options, shard, state)).await {
            Err(error) if error.is_taken() => sleep(LET_GO.1).await,
            result => return Ok(result?),
        }
    }
    Ok(admin::bind(options.metrics_addr, probes(options, shard, state)).await?)
}

/// LamportIDs start at the clock: a relay gives out fewer than one a microsecond, so none comes
/// again under a server key that was inherited from a relay that could not say its last.
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
        inheritance: None,
        sockets: SocketSets::default(),
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

/// Gives out no further session, and leaves the open ones to the next relay: the sooner it starts,
/// the shorter their pause, so nothing waits for them to end.
async fn leave(shard: &ShardHandle, state: &watch::Sender<RelayState>, file: &SessionFile) {
    shard.drain();
    state.send_modify(|state| state.draining = true);
    file.save(shard).await;
}
