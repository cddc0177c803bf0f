//! One PeerRelay: validate, build, apply, status.
//!
//! Validate, build and status are pure; only apply and the status patch speak to the API server.

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_runtime::{
    controller::Action,
    events::{Event, EventType, Recorder},
};
use serde_json::json;

use super::{
    apply::{ApplyError, apply},
    build::build,
    metrics::Metrics,
    plan::plan,
    probes::peers,
    status::{Outcome, ready, status},
    stores::Stores,
    validate::{RelayImage, ValidatedRelay, validate},
    verification, withdrawal,
};
use crate::{
    crd::{PeerRelay, PeerRelayStatus},
    names,
};

/// Wait after a request failed, for the first time; it doubles with each further failure.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait that an API server may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Times of withdrawals are whole seconds.
const SECOND: Duration = Duration::from_secs(1);
/// Wait before a name that is taken is tried again.
const TAKEN_RETRY: Duration = Duration::from_secs(30);

/// Everything that reconciling needs.
pub struct Context {
    /// Speaks to the API server.
    pub client: Client,
    /// What it has said.
    pub stores: Stores,
    /// Writes events.
    pub recorder: Recorder,
    /// What relays run.
    pub image: RelayImage,
    /// Counts.
    pub metrics: Metrics,
}

/// Why it did not work; every one is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The watches ended.
    #[error("failed to watch the cluster")]
    Watch(#[source] kube_runtime::reflector::store::WriterDropped),
    /// A child could not be applied.
    #[error("failed to apply the relays' objects")]
    Apply(#[source] ApplyError),
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
    /// What relays found of each other could not be written.
    #[error("failed to write into a RelayNode what others found of its addresses")]
    Verification(#[source] Box<kube::Error>),
}

/// Brings the cluster to what `relay` says, and its status to what the cluster says.
///
/// # Errors
/// A request failed.
pub async fn reconcile(relay: Arc<PeerRelay>, ctx: Arc<Context>) -> Result<Action, ReconcileError> {
    // Children are removed by the garbage collector, so a deletion needs nothing of ours.
    if relay.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    ctx.stores
        .wait_until_ready()
        .await
        .map_err(ReconcileError::Watch)?;
    if relay.spec.paused {
        publish(&relay, &ctx, None, Outcome::Paused).await?;
        return Ok(Action::await_change());
    }
    let mut validated = match validate(&relay, &ctx.image) {
        Ok(validated) => validated,
        Err(invalid) => {
            let message = invalid.to_string();
            let outcome = Outcome::Blocked {
                reason: "InvalidSpec",
                message: &message,
            };
            publish(&relay, &ctx, None, outcome).await?;
            return Ok(Action::await_change());
        }
    };
    plan(
        &mut validated,
        &ctx.stores
            .surroundings(&relay.namespace().unwrap_or_default()),
    );
    withdrawal::plan(&mut validated, &ctx.stores.view(&relay), Timestamp::now());
    validated.peers = peers(ctx.stores.seen(&relay).nodes.iter().map(AsRef::as_ref));
    let mut resources = build(&validated);
    if let Some(leaving) = &validated.leaving {
        leaving.hold(&mut resources);
    }
    match apply(&ctx.client, &ctx.stores, &validated, resources).await {
        Ok(changes) => ctx.metrics.count_changes(changes),
        Err(taken @ ApplyError::NameTaken { .. }) => {
            let message = taken.to_string();
            let outcome = Outcome::Blocked {
                reason: "NameTaken",
                message: &message,
            };
            publish(&relay, &ctx, Some(&validated), outcome).await?;
            return Ok(Action::requeue(TAKEN_RETRY));
        }
        Err(error) => return Err(ReconcileError::Apply(error)),
    }
    publish(&relay, &ctx, Some(&validated), Outcome::Applied).await?;
    let nodes = ctx.stores.seen(&relay).nodes;
    let written = verification::write(&ctx.client, &validated.namespace, &nodes).await;
    written.map_err(ReconcileError::Verification)?;
    Ok(next(&validated))
}

/// When to come again without a change: relays that are withdrawn are removed after a limit.
fn next(relay: &ValidatedRelay) -> Action {
    let Some(leaving) = &relay.leaving else {
        return Action::await_change();
    };
    let left = leaving.next.duration_since(Timestamp::now());
    Action::requeue(Duration::try_from(left).unwrap_or_default() + SECOND)
}

/// Waits before the next attempt, and counts.
pub fn error_policy(relay: Arc<PeerRelay>, error: &ReconcileError, ctx: Arc<Context>) -> Action {
    let failures = ctx
        .metrics
        .count_failure(&relay.name_any(), relay.namespace());
    let cause = anyhow::Chain::new(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    tracing::warn!(
        name = relay.name_any(),
        namespace = relay.namespace(),
        error = cause,
        "retrying"
    );
    let pause = RETRY * 2_u32.pow(failures.min(5));
    Action::requeue(pause.max(error.retry_after()))
}

impl ReconcileError {
    /// How long an API server that has too much to do asks to be left alone, at most a minute.
    fn retry_after(&self) -> Duration {
        let (Self::Apply(ApplyError::Api { source, .. }) | Self::Status(source)) = self else {
            return Duration::ZERO;
        };
        let kube::Error::Api(status) = &**source else {
            return Duration::ZERO;
        };
        let asked = status.details.as_ref().map(|d| d.retry_after_seconds);
        Duration::from_secs(asked.unwrap_or(0).into()).min(LONGEST_RETRY_AFTER)
    }
}

/// Writes the status if it is another one, and an event if it tells something new.
async fn publish(
    relay: &PeerRelay,
    ctx: &Context,
    validated: Option<&ValidatedRelay>,
    outcome: Outcome<'_>,
) -> Result<(), ReconcileError> {
    let namespace = relay.namespace().unwrap_or_default();
    let seen = ctx.stores.seen(relay);
    let new = status(relay, validated, &seen, outcome, Timestamp::now());
    if relay.status.as_ref() == Some(&new) {
        return Ok(());
    }
    let api: Api<PeerRelay> = Api::namespaced(ctx.client.clone(), &namespace);
    let patch = json!({
        "apiVersion": PeerRelay::api_version(&()),
        "kind": PeerRelay::kind(&()),
        "metadata": {"name": relay.name_any(), "uid": relay.uid()},
        "status": new,
    });
    let params = PatchParams::apply(names::STATUS_MANAGER).force();
    match api
        .patch_status(&relay.name_any(), &params, &Patch::Apply(&patch))
        .await
    {
        Ok(_) => {}
        // Deleted in the meantime. A conflict is tried again: the status was not written.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(source) => return Err(ReconcileError::Status(Box::new(source))),
    }
    announce(relay, ctx, &new).await;
    Ok(())
}

/// An event for each new reason of `Ready`. One that cannot be written is only logged: the status
/// has it too.
async fn announce(relay: &PeerRelay, ctx: &Context, new: &PeerRelayStatus) {
    let Some(now) = ready(new) else { return };
    let before = relay.status.as_ref().and_then(ready);
    if before.is_some_and(|b| b.reason == now.reason && b.status == now.status) {
        return;
    }
    let stalled = new
        .conditions
        .iter()
        .any(|c| c.type_ == "Stalled" && c.status == "True");
    let event = Event {
        type_: if stalled {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: now.reason.clone(),
        note: Some(now.message.clone()),
        action: "Reconcile".into(),
        secondary: None,
    };
    if let Err(error) = ctx.recorder.publish(&event, &relay.object_ref(&())).await {
        tracing::warn!(%error, "event not written");
    }
}
