//! One PeerRelay: validate, build, apply, status.
//!
//! Validate, build and status are pure; only apply and the status patch speak to the API server.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client, Resource, ResourceExt};
use kube_runtime::{
    controller::Action,
    events::{Event, Recorder},
};

use super::{
    apply::{Attempts, apply},
    build::build,
    defaults::{MonitoringDefaults, TemplateDefaults},
    events::{self, transitions},
    metrics::Metrics,
    plan::plan,
    probes::assign_peers,
    refusal::{Summary, chain, retry_after},
    rollout::hold_back,
    status::{Outcome, Seen, patch, status},
    stores::Stores,
    validate::{RelayImage, ValidSpec, validate},
    verification, withdrawal,
};
use crate::{
    backoff::Backoff,
    crd::{PeerRelay, PeerRelayStatus},
};

/// Wait until objects that the API server refused are applied again, where nothing says otherwise.
const RETRY: Duration = Duration::from_secs(1);
/// Waits after failures of one PeerRelay in a row.
const BACKOFF: Backoff = Backoff::new(RETRY, Duration::from_secs(32));
/// Times of withdrawals are whole seconds.
const SECOND: Duration = Duration::from_secs(1);

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
    /// Monitoring of PeerRelays that say nothing else.
    pub monitoring: MonitoringDefaults,
    /// Template of PeerRelays that say nothing else.
    pub template: TemplateDefaults,
    /// Counts.
    pub metrics: Metrics,
    /// What came of earlier attempts to apply.
    pub attempts: Attempts,
}

/// Why it did not work; every one is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The watches ended.
    #[error("failed to watch the cluster")]
    Watch(#[source] kube_runtime::reflector::store::WriterDropped),
    /// Some children could not be applied; the others were.
    #[error("{}", summary.message)]
    Refused {
        /// What was refused.
        summary: Summary,
        /// The time until the next attempt.
        pause: Duration,
    },
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
        publish(&relay, &ctx, None, Outcome::Paused, BTreeSet::new()).await?;
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
            publish(&relay, &ctx, None, outcome, BTreeSet::new()).await?;
            return Ok(Action::await_change());
        }
    };
    ctx.monitoring.fill(&mut validated.monitoring);
    ctx.template.fill(&mut validated);
    let now = Timestamp::now();
    let seen = ctx.stores.cluster_view(&validated.namespace);
    plan(&mut validated, &seen);
    let view = ctx.stores.view(&relay, &seen);
    let reports = &view.seen.nodes;
    withdrawal::plan(&mut validated, &view, now);
    assign_peers(&mut validated, reports);
    let mut resources = build(&validated);
    if let Some(leaving) = &validated.leaving {
        leaving.hold(&mut resources);
    }
    let pending = hold_back(&mut resources, &seen, reports, now);
    validated.held_back = pending.message;
    let applied = apply(
        &ctx.client,
        &ctx.stores,
        &ctx.attempts,
        &validated,
        resources,
    )
    .await;
    ctx.metrics.count_changes(applied.changes);
    for replaced in &applied.replaced {
        send_event(&relay, &ctx, &events::replaced(replaced)).await;
    }
    let refused = Summary::new(&applied.refusals);
    let outcome = match &refused {
        None => Some(Outcome::Applied),
        // Most of what passes does so at once.
        Some(summary) => applied.report.then_some(Outcome::Refused(summary)),
    };
    if let Some(outcome) = outcome {
        let changed = applied.changed_sets;
        publish(&relay, &ctx, Some(&validated), outcome, changed).await?;
    }
    let nodes = ctx.stores.reports(&relay);
    let written = verification::write(&ctx.client, &validated.namespace, &nodes).await;
    written.map_err(ReconcileError::Verification)?;
    let pause = applied.pause.unwrap_or(RETRY);
    match refused {
        Some(summary) => Err(ReconcileError::Refused { summary, pause }),
        None => Ok(next(&validated, pending.recheck_after)),
    }
}

/// When to come again without a change: relays that are withdrawn are removed after a limit, and
/// those that nobody reaches hold up a roll-out no longer.
fn next(relay: &ValidSpec, recheck_after: Option<Duration>) -> Action {
    let removal = relay.leaving.as_ref().map(|leaving| {
        let left = leaving.next.duration_since(Timestamp::now());
        Duration::try_from(left).unwrap_or_default() + SECOND
    });
    let first = removal.into_iter().chain(recheck_after).min();
    first.map_or_else(Action::await_change, Action::requeue)
}

/// Waits before the next attempt, and counts.
pub fn error_policy(relay: Arc<PeerRelay>, error: &ReconcileError, ctx: Arc<Context>) -> Action {
    let earlier = ctx
        .metrics
        .count_failure(&relay.name_any(), relay.namespace());
    tracing::warn!(
        name = relay.name_any(),
        namespace = relay.namespace(),
        error = chain(error),
        "retrying"
    );
    let pause = BACKOFF.after(earlier.saturating_add(1));
    Action::requeue(match error {
        ReconcileError::Refused { pause, .. } => *pause,
        ReconcileError::Status(source) => pause.max(retry_after(source)),
        _ => pause,
    })
}

/// Writes the status if it is another one, and an event if it tells something new.
async fn publish(
    relay: &PeerRelay,
    ctx: &Context,
    validated: Option<&ValidSpec>,
    outcome: Outcome<'_>,
    changed_sets: BTreeSet<String>,
) -> Result<(), ReconcileError> {
    let namespace = relay.namespace().unwrap_or_default();
    let seen = Seen {
        changed_sets,
        ..ctx.stores.seen(relay)
    };
    let new = status(relay, validated, &seen, outcome, Timestamp::now());
    if relay.status.as_ref() == Some(&new) {
        return Ok(());
    }
    let api: Api<PeerRelay> = Api::namespaced(ctx.client.clone(), &namespace);
    let (params, patch) = patch(&relay.metadata, &new);
    match api.patch_status(&relay.name_any(), &params, &patch).await {
        Ok(_) => {}
        // Deleted in the meantime. A conflict is tried again: the status was not written.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(source) => return Err(ReconcileError::Status(Box::new(source))),
    }
    announce(relay, ctx, &new).await;
    Ok(())
}

/// An event for each transition of a condition. One that cannot be written is only logged: the
/// status has it too.
async fn announce(relay: &PeerRelay, ctx: &Context, new: &PeerRelayStatus) {
    let old = relay.status.as_ref();
    let old = old.map_or(&[][..], |status| &status.conditions);
    for event in transitions(old, &new.conditions) {
        send_event(relay, ctx, &event).await;
    }
}

/// Writes an event. One that cannot be written is only logged.
async fn send_event(relay: &PeerRelay, ctx: &Context, event: &Event) {
    if let Err(error) = ctx.recorder.publish(event, &relay.object_ref(&())).await {
        tracing::warn!(%error, "event not written");
    }
}
