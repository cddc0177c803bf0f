//! Deletion of tailnet devices whose relays were removed, with the credential of their PeerRelay.
//!
//! As with auth keys ([`super::issuer`]), a task for each PeerRelay sends the requests, and its
//! results are for the next pass.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::Stream;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource, ResourceExt};
use kube_runtime::{events::Recorder, reflector::ObjectRef};
use tokio::time::Instant;

use super::{
    api_clients::{ApiAccess, ApiClients},
    credential::CredentialError,
    devices::Deleting,
    events,
    referred_credential::ReferenceError,
    retries::Retries,
    tasks::{Due, Tasks},
    validate::ApiAccount,
};
use crate::{
    crd::{PeerRelay, device::RelayDevice},
    tailnet_api::{ApiError, TailnetApi},
};

/// Maximum number of devices that a task deletes, one after the other.
const MOST_AT_ONCE: usize = 50;

/// Deletes devices in tasks of its own. Clones share them.
#[derive(Clone)]
pub struct Deleter(Arc<Shared>);

struct Shared {
    clients: ApiClients,
    recorder: Recorder,
    tasks: Tasks<State>,
}

/// The deletions for one PeerRelay.
#[derive(Default)]
struct State {
    results: Deleting,
    retries: Retries,
}

/// Devices of a PeerRelay in one pass.
#[derive(Debug, Clone, Copy)]
pub struct Deletions<'a> {
    /// Results of earlier attempts from which the pass was planned.
    pub seen: &'a Deleting,
    /// Devices in the status before the pass.
    pub before: &'a [RelayDevice],
    /// Devices that the status will have.
    pub recorded: &'a [RelayDevice],
    /// Devices to delete.
    pub due: &'a [RelayDevice],
}

/// The work of one task.
struct Order {
    access: ApiAccess,
    uid: String,
    /// The PeerRelay, for events.
    about: ObjectReference,
    due: Vec<RelayDevice>,
}

/// The results of one task.
#[derive(Default)]
struct Outcome {
    done: BTreeSet<String>,
    /// Devices that were not deleted because they lack the tag of their relay.
    kept: Vec<RelayDevice>,
    error: Option<CredentialError>,
}

impl Deleter {
    /// Makes a deleter, and the stream of PeerRelays whose tasks have ended.
    pub fn new(
        clients: ApiClients,
        recorder: Recorder,
    ) -> (Self, impl Stream<Item = ObjectRef<PeerRelay>> + Send) {
        let (tasks, ended) = Tasks::new();
        let shared = Shared {
            clients,
            recorder,
            tasks,
        };
        (Self(Arc::new(shared)), ended)
    }

    /// Results of earlier attempts for a PeerRelay.
    pub fn deleting(&self, relay: &ObjectRef<PeerRelay>) -> Deleting {
        let results = self.0.tasks.read(relay, |state| state.results.clone());
        results.unwrap_or_default()
    }

    /// Starts a task that deletes devices of `relay`, unless one runs. Returns the time until the
    /// next attempt, if one must wait.
    pub fn delete(
        &self,
        relay: &PeerRelay,
        account: Result<&ApiAccount, &ReferenceError>,
        deletions: &Deletions<'_>,
    ) -> Option<Duration> {
        let key = ObjectRef::from_obj(relay);
        let uid = relay.uid().unwrap_or_default();
        let tasks = &self.0.tasks;
        if deletions.due.is_empty() && !tasks.has(&key) {
            return None;
        }
        let settle = |state: &mut State| state.settle(deletions);
        let due = |state: &mut State| state.due(deletions.due, Instant::now());
        let due = match tasks.next(&key, &uid, settle, due) {
            Due::Now(due) => due,
            Due::After(wait) => return wait,
        };
        let order = Order {
            access: ApiAccess {
                namespace: relay.namespace().unwrap_or_default(),
                account: account.cloned().map_err(Clone::clone),
                relay: key,
            },
            uid,
            about: relay.object_ref(&()),
            due,
        };
        tokio::spawn(self.clone().run(order));
        None
    }

    /// Forgets a PeerRelay that was deleted.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.0.tasks.forget(relay);
    }

    async fn run(self, order: Order) {
        let outcome = delete_all(&self.0.clients, &order).await;
        for device in &outcome.kept {
            let event = events::device_kept(device);
            if let Err(error) = self.0.recorder.publish(&event, &order.about).await {
                tracing::warn!(%error, "event not written");
            }
        }
        let finish = |state: &mut State| state.finish(outcome, Instant::now());
        self.0.tasks.end(order.access.relay, &order.uid, finish);
    }
}

impl State {
    /// Forgets results that a pass has seen and that no status needs any more: the device is not
    /// recorded, or a relay reports it again.
    fn settle(&mut self, deletions: &Deletions<'_>) {
        let has = |devices: &[RelayDevice], id: &String| devices.iter().any(|d| d.node_id == *id);
        self.results.done.retain(|id| {
            let is_settled = !has(deletions.before, id) || has(deletions.recorded, id);
            // A task may have ended after the view was taken: its results stay until a pass has used them.
            !(deletions.seen.done.contains(id) && is_settled)
        });
    }

    /// The devices to delete now.
    fn due(&mut self, devices: &[RelayDevice], now: Instant) -> Due<Vec<RelayDevice>> {
        let done = &self.results.done;
        let due = devices
            .iter()
            .filter(|device| !done.contains(&device.node_id));
        let due: Vec<_> = due.take(MOST_AT_ONCE).cloned().collect();
        if due.is_empty() {
            self.succeeded();
            return Due::After(None);
        }
        match self.retries.next().filter(|next| *next > now) {
            Some(next) => Due::After(Some(next - now)),
            None => Due::Now(due),
        }
    }

    /// Forgets failures: nothing is left to delete, or the last attempt had none.
    fn succeeded(&mut self) {
        self.retries.reset();
        self.results.problem = None;
    }

    /// Records the results of a task.
    fn finish(&mut self, outcome: Outcome, now: Instant) {
        self.results.done.extend(outcome.done);
        let Some(error) = outcome.error else {
            self.succeeded();
            return;
        };
        self.retries.failed(&error, now);
        self.results.problem = Some(error.problem());
    }
}

/// Deletes the devices of an order, one after the other. A failure that concerns one device only
/// does not keep the others.
async fn delete_all(clients: &ApiClients, order: &Order) -> Outcome {
    let mut outcome = Outcome::default();
    let (name, namespace) = (&order.access.relay.name, &order.access.namespace);
    let api = match clients.get_or_last(&order.access).await {
        Ok(api) => api,
        Err(error) => {
            let message = error.problem().message;
            tracing::warn!(name, namespace, error = message, "no device is deleted");
            outcome.error = Some(error);
            return outcome;
        }
    };
    for device in &order.due {
        let (id, device_name) = (&device.node_id, &device.name);
        match delete_one(&api, device).await {
            Ok(is_ours) => {
                outcome.done.insert(id.clone());
                if is_ours {
                    tracing::info!(name, namespace, device_name, id, "device deleted");
                } else {
                    tracing::warn!(name, namespace, device_name, id, "device kept: other tags");
                    outcome.kept.push(device.clone());
                }
            }
            Err(error) => {
                // Some devices cannot be deleted: the API answers 501 for one that another tailnet shares,
                // and has answered 500 for single devices (tailscale/tailscale#9773).
                let is_of_device = matches!(
                    error,
                    ApiError::Refused { .. } | ApiError::Unavailable { .. }
                );
                let error = CredentialError::from(error);
                let message = error.problem().message;
                tracing::warn!(
                    name,
                    namespace,
                    device_name,
                    id,
                    error = message,
                    "not deleted"
                );
                outcome.error = Some(error);
                if !is_of_device {
                    break;
                }
            }
        }
    }
    outcome
}

/// Deletes a device, if it is in the tailnet. Returns false if it lacks the tag of the relay: then
/// it is not deleted, because the ID in the report of a relay may be that of any device.
async fn delete_one(api: &TailnetApi, device: &RelayDevice) -> Result<bool, ApiError> {
    let Some(found) = api.device(&device.node_id).await? else {
        return Ok(true);
    };
    // The scope `devices:core` allows to delete every device of a tailnet, whatever its tags are.
    if !found.tags.contains(&device.tag) {
        return Ok(false);
    }
    api.delete_device(&device.node_id).await.map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str) -> RelayDevice {
        RelayDevice {
            node_id: id.into(),
            ..RelayDevice::default()
        }
    }

    fn failed(error: ApiError) -> Outcome {
        Outcome {
            error: Some(error.into()),
            ..Outcome::default()
        }
    }

    #[test]
    fn failures_delay_the_next_attempt_as_long_as_the_api_asks() {
        let (mut state, now) = (State::default(), Instant::now());
        let devices = [device("nA")];
        let seconds = |due| match due {
            Due::After(Some(wait)) => wait.as_secs(),
            due => panic!("{due:?}"),
        };
        for wait in [2, 4, 8] {
            state.finish(failed(ApiError::Lost { operation: "try" }), now);
            assert_eq!(seconds(state.due(&devices, now)), wait);
        }
        let limited = ApiError::RateLimited {
            operation: "try",
            retry_after: Some(Duration::from_secs(90)),
        };
        state.finish(failed(limited), now);
        assert_eq!(seconds(state.due(&devices, now)), 90);
        assert!(state.results.problem.is_some());
        let later = now + Duration::from_secs(90);
        assert_eq!(state.due(&devices, later), Due::Now(devices.to_vec()));
        assert_eq!(state.due(&[], now), Due::After(None));
        assert_eq!(state.results.problem, None, "nothing is to be deleted");
    }

    #[test]
    fn results_are_kept_until_the_status_has_them() {
        let devices = [device("nA")];
        let mut state = State::default();
        state.results.done.insert("nA".into());
        let after = |state: &State, seen: &Deleting, before, recorded| {
            let mut results = State {
                results: state.results.clone(),
                ..State::default()
            };
            results.settle(&Deletions {
                seen,
                before,
                recorded,
                due: &[],
            });
            results.results.done.len()
        };
        let (unseen, seen) = (Deleting::default(), state.results.clone());
        assert_eq!(after(&state, &unseen, &devices, &devices), 1);
        assert_eq!(after(&state, &seen, &devices, &[]), 1);
        assert_eq!(after(&state, &seen, &[], &[]), 0, "the status has it");
        assert_eq!(after(&state, &seen, &devices, &devices), 0, "it is back");
    }
}
