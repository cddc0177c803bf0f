//! Deletion of a PeerRelay: its relays end, then their devices are deleted, then the object goes. At the
//! same time, its entries in the tailnet policy are removed.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube_runtime::controller::Action;

use super::{Context, ReconcileError, until};
use crate::{
    crd::PeerRelay,
    operator::{
        apply::{remove_relays, withdraw_relays},
        deleter::Deletions,
        events,
        policy_sync::Finding,
        publish::Publisher,
        removal::{self, Deletion, Step},
        view::ClusterView,
    },
};

/// Takes the next step of the deletion of `relay`, which has the finalizer.
pub(super) async fn step(
    relay: &PeerRelay,
    view: &ClusterView,
    publisher: &Publisher<'_>,
    ctx: &Context,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    match removal::next(relay, view, now) {
        Step::End(left) => {
            let (name, namespace) = (relay.name_any(), relay.namespace());
            if left.has_entries {
                let problem = match &view.syncing.finding {
                    Some(Finding::Failed(problem)) => Some(&*problem.message),
                    _ => None,
                };
                tracing::warn!(name, namespace, problem, "entries left in the policy");
                let event = events::entries_left(relay, problem);
                publisher.send_event(&event).await;
            }
            if !left.devices.is_empty() {
                let left = left.devices;
                let problem = view.deleting.problem.as_ref();
                let problem = problem.map(|problem| &*problem.message);
                tracing::warn!(
                    name,
                    namespace,
                    ?left,
                    problem,
                    "devices left in the tailnet"
                );
                let event = events::devices_left(&left, problem);
                publisher.send_event(&event).await;
            }
            // The object goes with its finalizer. In this order, an operator that ends in between sends
            // the events twice and not never.
            let removed = publisher.set_finalizer(false).await;
            removed.map_err(ReconcileError::Finalizer)?;
            Ok(Action::await_change())
        }
        Step::Delete(deletion) => {
            withdraw(relay, view, ctx, deletion.credential.is_some(), now).await;
            delete(relay, view, publisher, ctx, *deletion).await
        }
    }
}

/// Tells relays that none follows, and whether their devices are deleted. The deletion does not wait for
/// this: without it, the kernel of a node may forward open sessions for some minutes more, and the node
/// keeps the keys of a device that is gone.
async fn withdraw(
    relay: &PeerRelay,
    view: &ClusterView,
    ctx: &Context,
    deletes_devices: bool,
    now: Timestamp,
) {
    let maps = &view.config_maps;
    let withdrawn = withdraw_relays(&ctx.client, relay, maps, deletes_devices, now).await;
    if let Err(error) = withdrawn {
        let (name, namespace) = (relay.name_any(), relay.namespace());
        tracing::warn!(%error, name, namespace, "relays are removed without being withdrawn");
    }
}

async fn delete(
    relay: &PeerRelay,
    view: &ClusterView,
    publisher: &Publisher<'_>,
    ctx: &Context,
    deletion: Deletion,
) -> Result<Action, ReconcileError> {
    // The garbage collector removes children only when their owner is gone, and the owner waits for the
    // devices.
    let removed = remove_relays(&ctx.client, relay, &view.daemon_sets).await;
    let deletions = Deletions {
        seen: &view.deleting,
        before: &view.devices,
        recorded: &deletion.recorded,
        due: &deletion.due,
    };
    let credential = deletion.credential.as_ref();
    let devices = credential.and_then(|c| ctx.apis.deleter.delete(relay, c.as_ref(), &deletions));
    let policy = deletion.policy.as_ref();
    let entries = policy.and_then(|access| ctx.apis.syncer.remove(relay, access));
    let next = devices.into_iter().chain(entries).min();
    // A relay that has joined just before reports its device only as long as its pod exists.
    let mut status = relay.status.clone().unwrap_or_default();
    status.devices = deletion.recorded;
    let published = publisher.publish(status).await;
    removed.map_err(ReconcileError::Removal)?;
    published.map_err(ReconcileError::Status)?;
    let deadline = until(deletion.deadline);
    Ok(Action::requeue(
        next.map_or(deadline, |next| next.min(deadline)),
    ))
}
