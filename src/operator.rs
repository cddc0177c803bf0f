//! The operator: turns every `PeerRelay` into relays, and says how they do.

pub mod apply;
pub mod build;
pub mod defaults;
pub mod events;
pub mod fence;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod host_ports;
pub mod lease;
pub mod metrics;
pub mod overrides;
pub mod plan;
pub mod probes;
pub mod queue;
pub mod reconcile;
pub mod refusal;
pub mod requests;
pub mod rollout;
pub mod status;
pub mod stores;
pub mod tailnet;
pub mod unreadable;
pub mod validate;
pub mod verification;
pub mod withdrawal;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use futures::StreamExt;
use kube::{Client, ResourceExt, client::ClientBuilder};
use kube_runtime::{
    controller::{Action, Config, Error},
    events::{Recorder, Reporter},
};

use self::{
    apply::Attempts,
    defaults::MonitoringDefaults,
    fence::Fence,
    lease::Leadership,
    metrics::Metrics,
    reconcile::{Context, ReconcileError, error_policy, reconcile},
    stores::Stores,
    validate::RelayImage,
};
use crate::{
    admin::{self, Probes},
    crd::PeerRelay,
    footprint, names,
    supervisor::Supervisor,
};

/// PeerRelays that are reconciled at the same time.
const CONCURRENCY: u16 = 4;
/// Longest time between a stop signal and the end.
const DRAIN: Duration = Duration::from_secs(5);

/// What an operator runs with.
#[derive(Debug, Clone)]
pub struct OperatorOptions {
    /// What relays run.
    pub image: RelayImage,
    /// Monitoring of PeerRelays that say nothing else.
    pub monitoring: MonitoringDefaults,
    /// Where metrics and probes are served.
    pub metrics_addr: SocketAddr,
    /// Namespace of the lease; no election without one.
    pub lease_namespace: Option<String>,
    /// Name of this replica.
    pub identity: String,
}

/// Runs an operator until it is told to stop.
///
/// # Errors
/// There is no cluster, or a part of the operator has failed.
pub async fn run(options: OperatorOptions) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let mut config = kube::Config::infer().await.context(
        "failed to find a cluster: run in a pod with a service account, or set KUBECONFIG",
    )?;
    // A request that failed is made anew by who made it, with what is known and who leads by then.
    config.default_retry = false;
    let fence = match options.lease_namespace {
        Some(_) => Fence::closed(),
        None => Fence::default(),
    };
    let metrics = Metrics::default();
    let election = Client::try_from(config.clone())?;
    let counted = ClientBuilder::try_from(config)?.with_layer(&metrics.requests());
    let client = counted.with_layer(&fence).build();
    let serving = Arc::new(AtomicBool::new(false));
    let server = admin::bind(options.metrics_addr, probes(&metrics, &serving)).await?;
    supervisor.spawn("metrics server", server);

    let leadership = options.lease_namespace.as_ref().map(|namespace| {
        Arc::new(Leadership::new(
            election.clone(),
            namespace,
            names::OPERATOR,
            &options.identity,
            fence.clone(),
        ))
    });
    let acting = leadership.clone();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = options.identity,
        "operator starts"
    );
    supervisor.spawn("controller", async move {
        serving.store(true, Ordering::Relaxed);
        if let Some(leadership) = &acting {
            leadership.acquire().await;
            tracing::info!("leading");
        }
        metrics.lead();
        let work = control(
            client,
            (options.image, options.monitoring),
            metrics,
            options.identity,
        );
        match &acting {
            Some(leadership) => tokio::select! {
                lost = leadership.hold() => lost.map(|never| match never {}).map_err(Into::into),
                ended = work => ended,
            },
            None => work.await,
        }
    });
    let release = async {
        if let Some(leadership) = &leadership {
            leadership.release().await;
        }
    };
    supervisor.run(release, DRAIN).await
}

/// Reconciles until the watches end.
async fn control(
    client: Client,
    (image, monitoring): (RelayImage, MonitoringDefaults),
    metrics: Metrics,
    identity: String,
) -> anyhow::Result<()> {
    let (stores, controller) = Stores::watch(&client, metrics.queue());
    metrics.watch(controller.store(), stores.unreadable_relays.clone());
    let controller = controller.with_config(Config::default().concurrency(CONCURRENCY));
    let reporter = Reporter {
        controller: names::OPERATOR.into(),
        instance: Some(identity),
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let (unreadable_relays, unreadable_nodes) = (
        stores.unreadable_relays.clone(),
        stores.unreadable_nodes.clone(),
    );
    let telling = (client.clone(), recorder.clone());
    let context = Arc::new(Context {
        client,
        stores,
        recorder,
        image,
        monitoring,
        metrics: metrics.clone(),
        attempts: Attempts::default(),
    });
    let seen = context.clone();
    let ready = move || {
        let seen = seen.clone();
        async move { seen.stores.wait_until_ready().await.is_ok() }
    };
    let attempts = context.clone();
    let mut results = Box::pin(controller.run(measured, error_policy, context));
    let work = async {
        while let Some(result) = results.next().await {
            match result {
                Ok((object, _)) => metrics.count_success(&object.name, object.namespace),
                // Logged and counted by the error policy.
                Err(Error::ReconcilerFailed(..)) => {}
                // Deleted between its event and its turn.
                Err(Error::ObjectNotFound(gone)) => {
                    metrics.begin(&gone.name, gone.namespace.as_deref());
                    attempts.attempts.forget(&gone.into_kind_unchecked(()));
                }
                Err(error) => tracing::warn!(%error, "watch failed; trying again"),
            }
        }
    };
    let (client, recorder) = &telling;
    tokio::select! {
        () = work => anyhow::bail!("watches ended"),
        never = unreadable::tell_relays(client, recorder, &unreadable_relays) => match never {},
        never = unreadable::tell_nodes(recorder, &unreadable_nodes) => match never {},
        Ok(never) | Err(never) = footprint::let_go(ready) => match never {},
    }
}

async fn measured(relay: Arc<PeerRelay>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let namespace = relay.namespace();
    context
        .metrics
        .begin(&relay.name_any(), namespace.as_deref());
    let _working = context.metrics.work();
    reconcile(relay, context).await
}

fn probes(metrics: &Metrics, serving: &Arc<AtomicBool>) -> Probes {
    let (metrics, serving) = (metrics.clone(), serving.clone());
    Probes {
        metrics: Arc::new(move || {
            let text = metrics.render();
            Box::pin(async { text })
        }),
        // A replica that waits for the lease is ready too: it would act if it had to.
        ready: Arc::new(move || match serving.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err("not ready: starting".into()),
        }),
        identity: None,
    }
}
