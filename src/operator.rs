//! Operator that creates relays for every `PeerRelay` and updates its status.

pub mod api_clients;
pub mod apply;
pub mod build;
pub mod credential;
pub mod daemon_sets;
pub mod defaults;
pub mod deleter;
pub mod devices;
pub mod events;
pub mod expiry;
pub mod fence;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod host_ports;
pub mod issuer;
pub mod kinds;
pub mod lease;
pub mod metrics;
pub mod objects;
pub mod overrides;
pub mod own_pod;
pub mod own_tokens;
pub mod plan;
pub mod policy_sync;
pub mod probes;
pub mod publish;
pub mod queue;
pub mod readiness;
pub mod reconcile;
pub mod referred_credential;
pub mod refusal;
pub mod removal;
pub mod requests;
pub mod retries;
pub mod status;
pub mod stores;
pub mod syncer;
pub mod tailnet;
pub mod tasks;
pub mod unreadable;
pub mod validate;
pub mod verification;
pub mod view;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use kube::{Client, ResourceExt, client::ClientBuilder};
use kube_runtime::{
    Controller,
    controller::{Action, Config, Error},
    events::{Recorder, Reporter},
    reflector::ObjectRef,
};

use self::{
    api_clients::ApiClients,
    apply::Attempts,
    defaults::{Defaults, MonitoringDefaults, RelayImage, TemplateDefaults},
    deleter::Deleter,
    fence::Fence,
    issuer::Issuer,
    lease::{Claim, Leadership, Times},
    metrics::Metrics,
    own_pod::OwnPod,
    queue::Queue,
    readiness::Readiness,
    reconcile::{ApiTasks, Context, ReconcileError, error_policy, reconcile},
    stores::{Scope, Stores},
    syncer::Syncer,
};
use crate::{
    admin::{self, NotReady, Probes},
    crd::PeerRelay,
    memory, names,
    supervisor::Supervisor,
};

/// Longest time that the process may run after a stop signal.
const DRAIN: Duration = Duration::from_secs(5);

/// The options of an operator.
#[derive(Debug, Clone)]
pub struct OperatorOptions {
    /// Image of relays. If empty, relays use the image of the operator's own pod.
    pub image: Option<String>,
    /// `imagePullPolicy` of relays. If empty, relays use that of the operator's own pod.
    pub pull_policy: Option<String>,
    /// Defaults for the monitoring of PeerRelays.
    pub monitoring: MonitoringDefaults,
    /// Defaults for the template of PeerRelays.
    pub template: TemplateDefaults,
    /// Address at which metrics and probes are served.
    pub metrics_addr: SocketAddr,
    /// Namespaces whose PeerRelays are reconciled. If empty, these are all namespaces.
    pub namespaces: Vec<String>,
    /// PeerRelays that are reconciled at the same time.
    pub concurrency: u16,
    /// Namespace of the lease and of the operator's pod. Without it, there is no leader election.
    pub lease_namespace: Option<String>,
    /// Name of the lease.
    pub lease_name: String,
    /// Times of the election.
    pub lease_times: Times,
    /// Name of the pod in which the operator runs, if it does.
    pub pod: Option<String>,
    /// Name of this replica.
    pub identity: String,
    /// Directory with tokens of the operator for audiences outside of the cluster.
    pub tokens: PathBuf,
}

/// Runs an operator until it receives a stop signal.
///
/// # Errors
/// There is no cluster, or a part of the operator has failed.
pub async fn run(options: OperatorOptions) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let mut config = kube::Config::infer().await.context(
        "failed to find a cluster: run in a pod with a service account, or set KUBECONFIG",
    )?;
    // The caller of a failed request retries it, with the state and the leader of that time.
    config.default_retry = false;
    let fence = match options.lease_namespace {
        Some(_) => Fence::closed(),
        None => Fence::default(),
    };
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let election = Client::try_from(config.clone())?;
    let counted = ClientBuilder::try_from(config)?.with_layer(&metrics.requests());
    let client = counted.with_layer(&fence).build();
    let server = admin::bind(options.metrics_addr, probes(&metrics, &readiness)).await?;
    supervisor.spawn("metrics server", server);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        identity = options.identity,
        "operator starts"
    );
    // It is set when the operator's pod has been read. This can wait for the RBAC rules to exist.
    let leadership = Arc::new(OnceLock::new());
    let acting = leadership.clone();
    supervisor.spawn("controller", async move {
        let own = own_pod(&election, &options, &readiness).await;
        let image = relay_image(&options, own.as_ref())?;
        if let Some(namespace) = &options.lease_namespace {
            let claim = Claim {
                name: options.lease_name.clone(),
                identity: options.identity.clone(),
                times: options.lease_times,
                owner: own.and_then(|own| own.owner),
            };
            readiness.waits_for("the lease was not read yet".into());
            let leadership = Leadership::new(election, namespace, claim, fence, readiness.clone());
            let leadership = acting.get_or_init(|| leadership);
            leadership.acquire().await;
            tracing::info!("leading");
        }
        readiness.begins();
        metrics.lead();
        let work = control(client, image, options, metrics, readiness);
        match acting.get() {
            Some(leadership) => tokio::select! {
                lost = leadership.hold() => lost.map(|never| match never {}).map_err(Into::into),
                ended = work => ended,
            },
            None => work.await,
        }
    });
    let release = async {
        if let Some(leadership) = leadership.get() {
            leadership.release().await;
        }
    };
    supervisor.run(release, DRAIN).await
}

async fn own_pod(
    client: &Client,
    options: &OperatorOptions,
    readiness: &Readiness,
) -> Option<OwnPod> {
    let (Some(namespace), Some(pod)) = (&options.lease_namespace, &options.pod) else {
        return None;
    };
    Some(own_pod::read(client, namespace, pod, readiness).await)
}

/// The image of relays: the one of the options, or that of the operator itself.
fn relay_image(options: &OperatorOptions, own: Option<&OwnPod>) -> anyhow::Result<RelayImage> {
    let reference = options.image.clone().or(own.map(|own| own.image.clone()));
    let policy = options.pull_policy.clone();
    let policy = policy.or(own.map(|own| own.pull_policy.clone()));
    let image = RelayImage {
        reference: reference.context(
            "there is no image for relays: set --relay-image, or POD_NAME and POD_NAMESPACE to \
             the operator's own pod",
        )?,
        pull_policy: policy.unwrap_or_else(|| "IfNotPresent".to_owned()),
    };
    tracing::info!(image = image.reference, "relays run this image");
    Ok(image)
}

/// Runs the controllers until the watches end.
async fn control(
    client: Client,
    image: RelayImage,
    options: OperatorOptions,
    metrics: Metrics,
    readiness: Readiness,
) -> anyhow::Result<()> {
    let scope = Scope {
        client: client.clone(),
        namespaces: options.namespaces.into(),
        readiness: readiness.clone(),
    };
    let (stores, controller) = Stores::watch(&scope, metrics.queue());
    metrics.watch(controller.store(), stores.unreadable_relays.clone());
    let recorder = recorder(&client, options.identity);
    let tokens = Arc::from(options.tokens);
    let own_namespace: Option<Arc<str>> = options.lease_namespace.map(Into::into);
    let clients = || ApiClients::new(client.clone(), Arc::clone(&tokens), own_namespace.clone());
    let (apis, controller) = call_apis(clients, &recorder, metrics.queue(), controller);
    let controller = controller.with_config(Config::default().concurrency(options.concurrency));
    let context = Arc::new(Context {
        recorder,
        client,
        stores,
        defaults: Defaults {
            image,
            monitoring: options.monitoring,
            template: options.template,
        },
        metrics,
        attempts: Attempts::default(),
        apis,
    });
    let Context {
        client,
        stores,
        recorder,
        ..
    } = &*context;
    let waiting = context.clone();
    let ready = move || {
        let waiting = waiting.clone();
        async move { waiting.stores.wait_until_ready().await.is_ok() }
    };
    let first_pass = async {
        if stores.wait_until_ready().await.is_ok() {
            readiness.acts();
        }
        std::future::pending::<()>().await;
    };
    let (relays, nodes) = (&stores.unreadable_relays, &stores.unreadable_nodes);
    tokio::select! {
        () = reconcile_all(controller, &context) => anyhow::bail!("watches ended"),
        never = verification::control(client, stores) => match never {},
        never = unreadable::report_relays(client, recorder, relays) => match never {},
        never = unreadable::report_nodes(recorder, nodes) => match never {},
        () = first_pass => anyhow::bail!("nothing is left to do"),
        Ok(never) | Err(never) = memory::release_when_ready(ready) => match never {},
    }
}

/// Makes the writer of events of the replica `identity`.
fn recorder(client: &Client, identity: String) -> Recorder {
    let reporter = Reporter {
        controller: names::OPERATOR.into(),
        instance: Some(identity),
    };
    Recorder::new(client.clone(), reporter)
}

/// Makes the parts that call APIs of tailnets. Each of their results is for a pass.
fn call_apis(
    clients: impl Fn() -> ApiClients,
    recorder: &Recorder,
    queue: &Queue,
    controller: Controller<PeerRelay>,
) -> (ApiTasks, Controller<PeerRelay>) {
    let shared = clients();
    let (issuer, ended) = Issuer::new(shared.clone());
    let controller = triggered(controller, queue, ended);
    let (deleter, ended) = Deleter::new(shared, recorder.clone());
    let controller = triggered(controller, queue, ended);
    // With clients of its own, as these keep one account for each PeerRelay, and the policy has a second
    // one.
    let (syncer, ended) = Syncer::new(clients());
    let controller = triggered(controller, queue, ended);
    let apis = ApiTasks {
        issuer,
        deleter,
        syncer,
    };
    (apis, controller)
}

/// Makes a stream a trigger of the controller: each of its PeerRelays gets a pass.
fn triggered(
    controller: Controller<PeerRelay>,
    queue: &Queue,
    relays: impl Stream<Item = ObjectRef<PeerRelay>> + Send + 'static,
) -> Controller<PeerRelay> {
    let queue = queue.clone();
    controller.reconcile_on(relays.inspect(move |relay| queue.add(relay, Instant::now())))
}

/// Reconciles PeerRelays until the watches end.
async fn reconcile_all(controller: Controller<PeerRelay>, context: &Arc<Context>) {
    let mut results = Box::pin(controller.run(measured, error_policy, context.clone()));
    let metrics = &context.metrics;
    while let Some(result) = results.next().await {
        match result {
            Ok((object, _)) => metrics.count_success(&object.name, object.namespace),
            // Logged and counted by the error policy.
            Err(Error::ReconcilerFailed(..)) => {}
            // Deleted between its event and its pass.
            Err(Error::ObjectNotFound(gone)) => {
                metrics.begin(&gone.name, gone.namespace.as_deref());
                let gone = gone.into_kind_unchecked(());
                context.forget(&gone);
            }
            Err(error) => tracing::warn!(%error, "watch failed; trying again"),
        }
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

fn probes(metrics: &Metrics, readiness: &Readiness) -> Probes {
    // They are served before the election: a replica that stands by must answer them too.
    let (metrics, readiness) = (metrics.clone(), readiness.clone());
    Probes {
        metrics: Arc::new(move || {
            let text = metrics.render();
            Box::pin(async { text })
        }),
        ready: Arc::new(move || readiness.check().map_err(NotReady)),
        identity: None,
    }
}
