//! One pass over a PeerRelay: view, validate, plan, build, apply, status.
//!
//! Only view, apply and the write of the status access the API server. The other steps are pure.

mod deletion;

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use kube_runtime::{
    controller::Action,
    events::Recorder,
    reflector::{ObjectRef, store::WriterDropped},
};

use super::{
    apply::{Attempts, apply},
    build::build,
    defaults::Defaults,
    deleter::{Deleter, Deletions},
    events, expiry,
    issuer::Issuer,
    metrics::Metrics,
    objects::{Applied, Objects},
    plan::{Plan, plan},
    policy_sync::Wish,
    publish::Publisher,
    refusal::{Summary, chain, retry_after},
    removal,
    status::{Outcome, Pass, status},
    stores::Stores,
    syncer::Syncer,
    validate::{InvalidRelay, ValidSpec, validate},
    view::{ApiResults, ClusterView, view},
};
use crate::{
    backoff::Backoff,
    crd::{PeerRelay, PeerRelayStatus},
};

/// Default wait until objects that the API server refused are applied again.
const RETRY: Duration = Duration::from_secs(1);
/// Backoff after consecutive failures of one PeerRelay.
const BACKOFF: Backoff = Backoff::new(RETRY, Duration::from_secs(32));
/// Times of withdrawals are whole seconds.
const SECOND: Duration = Duration::from_secs(1);

/// Dependencies of a pass.
pub struct Context {
    /// Client of the API server.
    pub client: Client,
    /// Watches of the cluster.
    pub stores: Stores,
    /// Writer of events.
    pub recorder: Recorder,
    /// Values for fields that PeerRelays leave empty.
    pub defaults: Defaults,
    /// Counters of the operator.
    pub metrics: Metrics,
    /// Results of earlier attempts to apply objects.
    pub attempts: Attempts,
    /// Tasks that call APIs of tailnets.
    pub apis: ApiTasks,
}

/// Tasks that call APIs of tailnets beside the passes.
pub struct ApiTasks {
    /// Creator of auth keys.
    pub issuer: Issuer,
    /// Deleter of tailnet devices.
    pub deleter: Deleter,
    /// Syncer of tailnet policies.
    pub syncer: Syncer,
}

impl ApiTasks {
    /// Returns the results of earlier tasks for a PeerRelay.
    fn results(&self, relay: &ObjectRef<PeerRelay>) -> ApiResults {
        ApiResults {
            issuing: self.issuer.issuing(relay),
            deleting: self.deleter.deleting(relay),
            syncing: self.syncer.syncing(relay),
        }
    }

    /// Starts the tasks that are due. Returns the times until the next ones, if some must wait.
    fn start(
        &self,
        (relay, spec): (&PeerRelay, &ValidSpec),
        plan: &Plan,
        view: &ClusterView,
    ) -> impl Iterator<Item = Duration> + use<> {
        let key = ObjectRef::from_obj(relay);
        let next = [
            self.issuer.issue(key, spec, &view.issuing.issued, plan),
            delete_devices((relay, spec), plan, view, &self.deleter),
            sync_policy((relay, spec), plan, view, &self.syncer),
            expiry::next(plan, &view.reports, Timestamp::now()).map(until),
        ];
        next.into_iter().flatten()
    }
}

impl Context {
    /// Forgets a PeerRelay that was deleted.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.attempts.forget(relay);
        self.apis.issuer.forget(relay);
        self.apis.deleter.forget(relay);
        self.apis.syncer.forget(relay);
    }
}

/// Reason why a pass failed. Every failed pass is retried.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The watches ended.
    #[error("failed to watch the cluster")]
    Watch(#[source] WriterDropped),
    /// Some objects could not be applied; the others were.
    #[error("{}", summary.message)]
    Refused {
        /// Refusals of the API server.
        summary: Summary,
        /// Time until the next attempt.
        pause: Duration,
    },
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
    /// The finalizer could not be set or removed.
    #[error("failed to write the finalizer")]
    Finalizer(#[source] Box<kube::Error>),
    /// Relays of a deleted PeerRelay could not be removed.
    #[error("failed to remove the relays of a deleted PeerRelay")]
    Removal(#[source] Box<kube::Error>),
}

/// Applies `relay` to the cluster, and updates its status from the cluster.
///
/// # Errors
/// A request failed.
pub async fn reconcile(relay: Arc<PeerRelay>, ctx: Arc<Context>) -> Result<Action, ReconcileError> {
    // The garbage collector removes the children. The operator deletes devices before.
    let is_deleted = relay.metadata.deletion_timestamp.is_some();
    if is_deleted && !removal::is_held(&relay) {
        return Ok(Action::await_change());
    }
    let ready = ctx.stores.wait_until_ready().await;
    ready.map_err(ReconcileError::Watch)?;
    let now = Timestamp::now();
    let publisher = Publisher::new(&ctx.client, &ctx.recorder, &relay);
    let key = ObjectRef::from_obj(&*relay);
    let view = view(&ctx.stores, ctx.apis.results(&key), &relay);
    if is_deleted {
        return deletion::step(&relay, &view, &publisher, &ctx, now).await;
    }
    if relay.spec.paused {
        let status = status(&relay, &view, Outcome::Paused, now);
        let published = publisher.publish(status).await;
        return published
            .map(|()| Action::await_change())
            .map_err(ReconcileError::Status);
    }
    let spec = match validate(&relay, &view.referred, &ctx.defaults) {
        Ok(spec) => spec,
        Err(invalid) => {
            // The account is not used to delete devices either: the status that lists them is less trusted
            // than the administrator who has withdrawn the access.
            if invalid.withdraws_access() {
                ctx.apis.issuer.forget(&key);
            }
            let status = invalid_status(&relay, &view, &invalid, now);
            let published = publisher.publish(status).await;
            return published
                .map(|()| Action::await_change())
                .map_err(ReconcileError::Status);
        }
    };
    let plan = plan(&spec, &view, now);
    let tasks = ctx.apis.start((&relay, &spec), &plan, &view);
    let objects = build(&spec, &plan);
    let applying = apply(&ctx.client, &ctx.stores, &ctx.attempts, objects);
    let (objects, held) = hold_while(&relay, &plan, &publisher, applying).await?;
    ctx.metrics.count_changes(objects.stage.changes);
    for replaced in &objects.stage.replaced {
        publisher.send_event(&events::replaced(replaced)).await;
    }
    // Most temporary failures end immediately, so the status reports them from the second one on.
    if objects.stage.refused.is_none() || objects.stage.report_refused {
        let pass = Pass {
            spec: &spec,
            plan: &plan,
            objects: &objects,
        };
        let status = status(&relay, &view, Outcome::Applied(pass), now);
        let published = publisher.publish(status).await;
        published.map_err(ReconcileError::Status)?;
    }
    held?;
    next(&plan, objects, tasks)
}

/// The status of a PeerRelay that cannot be planned.
fn invalid_status(
    relay: &PeerRelay,
    view: &ClusterView,
    invalid: &InvalidRelay,
    now: Timestamp,
) -> PeerRelayStatus {
    let (reason, message) = (invalid.reason(), &*invalid.to_string());
    status(relay, view, Outcome::Invalid { reason, message }, now)
}

/// Applies objects while the PeerRelay has the finalizer, if the tailnet may have devices or entries in its
/// policy that the operator removes. Returns their result, and that of the removal of a finalizer that is not
/// needed any more.
///
/// The finalizer is set first: objects contain auth keys, and a PeerRelay that is deleted before it has the
/// finalizer would leave the devices that join with them.
async fn hold_while<T>(
    relay: &PeerRelay,
    plan: &Plan,
    publisher: &Publisher<'_>,
    applying: impl Future<Output = T>,
) -> Result<(T, Result<(), ReconcileError>), ReconcileError> {
    let (is_held, wanted) = (
        removal::is_held(relay),
        plan.has_devices() || plan.policy.has_entries(),
    );
    let set = async |wanted| {
        let set = publisher.set_finalizer(wanted).await;
        set.map_err(ReconcileError::Finalizer)
    };
    if wanted && !is_held {
        set(true).await?;
    }
    let applied = applying.await;
    let released = match is_held && !wanted {
        true => set(false).await,
        false => Ok(()),
    };
    Ok((applied, released))
}

/// Starts to delete the devices of removed relays. Returns the time until the next attempt, if one
/// must wait.
fn delete_devices(
    (relay, spec): (&PeerRelay, &ValidSpec),
    plan: &Plan,
    view: &ClusterView,
    deleter: &Deleter,
) -> Option<Duration> {
    let credential = spec.tailnet.deletion_credential.as_ref()?;
    let deletions = Deletions {
        seen: &view.deleting,
        before: &view.devices,
        recorded: &plan.devices.recorded,
        due: &plan.devices.due,
    };
    deleter.delete(relay, Ok(credential), &deletions)
}

/// Starts to compare the tailnet policy with the entries of the PeerRelay, if a comparison is due.
/// Returns the time until the next one, if one must wait.
fn sync_policy(
    (relay, spec): (&PeerRelay, &ValidSpec),
    plan: &Plan,
    view: &ClusterView,
    syncer: &Syncer,
) -> Option<Duration> {
    let (Some(access), Some(entries)) = (&spec.policy_access, &plan.policy.entries) else {
        syncer.forget(&ObjectRef::from_obj(relay));
        return None;
    };
    let stored = view.policy.as_ref();
    let regions = relay.status.iter().flat_map(|status| &status.regions);
    let expires = plan.policy.credential_expires();
    let expires_soon = expires.is_some_and(|expiry| expiry::is_soon(expiry, Timestamp::now()));
    let wish = Wish {
        checksum: entries.checksum.clone(),
        writes: access.writes,
        // Both are in the cluster before the first write.
        is_held: removal::is_held(relay) && stored.is_some_and(|policy| policy.has_entries),
        is_known: plan.policy.is_known(),
        is_proposed: plan.policy.diff.is_some(),
        is_repeated: plan.policy.has_findings() || expires_soon,
        reports: regions.map(|region| region.grant).collect(),
    };
    syncer.sync(relay, access, &wish, &entries.request)
}

/// Returns the time of the next pass: after a refusal, when withdrawn relays are removed, when a
/// roll-out no longer waits for relays that are not reached, or for the next one of the `attempts`
/// to create an auth key, to delete a device, to compare the policy or to look at what expires.
fn next(
    plan: &Plan,
    objects: Objects<Applied>,
    attempts: impl Iterator<Item = Duration>,
) -> Result<Action, ReconcileError> {
    let Objects {
        deferred, stage, ..
    } = objects;
    if let Some(summary) = stage.refused {
        let pause = stage.pause.unwrap_or(RETRY);
        return Err(ReconcileError::Refused { summary, pause });
    }
    let removal = plan.leaving.as_ref().map(|leaving| leaving.next);
    let times = removal.into_iter().chain(plan.devices.next).map(until);
    let others = deferred.recheck_after.into_iter().chain(attempts);
    let first = times.chain(others).min();
    Ok(first.map_or_else(Action::await_change, Action::requeue))
}

/// Returns the wait until a time has passed that is known in whole seconds.
fn until(time: Timestamp) -> Duration {
    let left = time.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default() + SECOND
}

/// Returns the wait before the next attempt, and counts the failure.
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
        ReconcileError::Status(source)
        | ReconcileError::Finalizer(source)
        | ReconcileError::Removal(source) => pause.max(retry_after(source)),
        _ => pause,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::{convert::Infallible, sync::Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use kube_runtime::events::Reporter;
    use serde_json::json;

    use super::*;
    use crate::{
        crd::device::RelayDevice,
        names,
        operator::{fixtures, plan::DevicePlan},
    };

    /// Returns the steps of a pass, with an API server that answers with this status.
    async fn steps(is_held: bool, wanted: bool, status: u16) -> Vec<&'static str> {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = steps.clone();
        let mut relay = fixtures::relay(json!({}));
        let body = serde_json::to_vec(&relay).unwrap();
        let client = Client::new(
            tower::service_fn(move |_: Request<Body>| {
                seen.lock().unwrap().push("finalizer");
                let answer = Response::builder().status(status);
                let answer = answer.body(Body::from(body.clone())).unwrap();
                async { Ok::<_, Infallible>(answer) }
            }),
            "relays",
        );
        relay.metadata.finalizers = is_held.then(|| vec![names::FINALIZER.to_owned()]);
        let recorder = Recorder::new(client.clone(), Reporter::from("test"));
        let publisher = Publisher::new(&client, &recorder, &relay);
        let recorded = wanted.then(RelayDevice::default).into_iter().collect();
        let plan = Plan {
            devices: DevicePlan {
                recorded,
                ..DevicePlan::default()
            },
            ..Plan::default()
        };
        let applying = async { steps.lock().unwrap().push("objects") };
        hold_while(&relay, &plan, &publisher, applying).await.ok();
        let steps = steps.lock().unwrap();
        steps.clone()
    }

    #[tokio::test]
    async fn finalizer_is_set_before_objects_are_applied_and_removed_after() {
        assert_eq!(steps(false, true, 200).await, ["finalizer", "objects"]);
        assert_eq!(steps(false, true, 403).await, ["finalizer"]);
        assert_eq!(steps(true, true, 200).await, ["objects"]);
        assert_eq!(steps(false, false, 200).await, ["objects"]);
        assert_eq!(steps(true, false, 200).await, ["objects", "finalizer"]);
    }
}
