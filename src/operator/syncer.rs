//! Merge of the entries of PeerRelays into the policies of their tailnets.
//!
//! As with auth keys ([`super::issuer`]), a task for each PeerRelay sends the requests, and its
//! results are for the next pass.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use tokio::time::Instant;

use super::{
    api_clients::{ApiAccess, ApiClients},
    credential::CredentialError,
    policy_sync::{
        Comparison, Exchange, Finding, Order, Request, Schedule, Syncing, Wish, removal,
    },
    tasks::{Due, Tasks},
    validate::PolicyAccess,
};
use crate::{crd::PeerRelay, grants::policy_file::MergeRequest, tailnet_api::TailnetApi};

/// Merges entries in tasks of its own. Clones share them.
#[derive(Clone)]
pub struct Syncer(Arc<Shared>);

struct Shared {
    clients: ApiClients,
    tasks: Tasks<Schedule>,
}

/// The work of one task.
struct Task {
    access: ApiAccess,
    uid: String,
    request: MergeRequest,
    order: Order,
    is_removal: bool,
}

impl Syncer {
    /// Makes a syncer, and the stream of PeerRelays whose tasks have ended. It needs clients of its
    /// own, because PeerRelays have a separate credential for the policy.
    pub fn new(clients: ApiClients) -> (Self, impl Stream<Item = ObjectRef<PeerRelay>> + Send) {
        let (tasks, ended) = Tasks::new();
        (Self(Arc::new(Shared { clients, tasks })), ended)
    }

    /// Results of earlier comparisons for a PeerRelay.
    pub fn syncing(&self, relay: &ObjectRef<PeerRelay>) -> Syncing {
        let results = self.0.tasks.read(relay, |state| state.results.clone());
        results.unwrap_or_default()
    }

    /// Starts a task that compares the policy with the entries of `request`, if one is due and none
    /// runs. Returns the time until the next one, if one must wait.
    pub fn sync(
        &self,
        relay: &PeerRelay,
        access: &PolicyAccess,
        wish: &Wish,
        request: &MergeRequest,
    ) -> Option<Duration> {
        let due = |state: &mut Schedule| state.due(wish, Instant::now());
        self.start(relay, access, request, false, due)
    }

    /// Starts a task that removes the entries of `relay`, which is being deleted, unless one runs.
    /// Returns the time until the next attempt, if one must wait.
    pub fn remove(&self, relay: &PeerRelay, access: &PolicyAccess) -> Option<Duration> {
        let namespace = relay.namespace().unwrap_or_default();
        let request = removal(access, format!("{namespace}/{}", relay.name_any()));
        let due = |state: &mut Schedule| state.due_removal(Instant::now());
        self.start(relay, access, &request, true, due)
    }

    /// Forgets a PeerRelay that was deleted, or whose policy is not accessed any more.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.0.tasks.forget(relay);
        self.0.clients.forget(relay);
    }

    fn start(
        &self,
        relay: &PeerRelay,
        access: &PolicyAccess,
        request: &MergeRequest,
        is_removal: bool,
        due: impl FnOnce(&mut Schedule) -> Due<Order>,
    ) -> Option<Duration> {
        let key = ObjectRef::from_obj(relay);
        let uid = relay.uid().unwrap_or_default();
        let order = match self.0.tasks.next(&key, &uid, |_| (), due) {
            Due::Now(order) => order,
            Due::After(wait) => return wait,
        };
        let task = Task {
            access: ApiAccess {
                relay: key,
                namespace: relay.namespace().unwrap_or_default(),
                account: access.account.clone(),
            },
            uid,
            request: request.clone(),
            order,
            is_removal,
        };
        tokio::spawn(self.clone().run(task));
        None
    }

    async fn run(self, task: Task) {
        let result = self.compare(&task).await;
        let Task {
            access,
            uid,
            order,
            is_removal,
            ..
        } = task;
        let finish = |state: &mut Schedule| {
            let now = Instant::now();
            match is_removal {
                true => state.finish_removal(order, result, now),
                false => state.finish(order, result, now),
            }
        };
        self.0.tasks.end(access.relay, &uid, finish);
    }

    async fn compare(&self, task: &Task) -> Result<Comparison, CredentialError> {
        let Task {
            access,
            request,
            order,
            is_removal,
            ..
        } = task;
        let (name, namespace) = (&access.relay.name, &access.namespace);
        let api = match is_removal {
            // The Secret is often deleted together with the PeerRelay.
            true => self.0.clients.get_or_last(access).await,
            false => self.0.clients.get(access).await,
        };
        let exchange = Exchange::new(request.clone(), order.goal);
        let result = match api {
            Ok(api) => match converse(&api, exchange).await {
                Ok(comparison) if !is_removal => Ok(with_expiry(&api, comparison).await),
                result => result,
            },
            Err(error) => Err(error),
        };
        let goal = order.goal;
        match result.as_ref().map(|comparison| &comparison.finding) {
            Ok(Finding::UpToDate) => {
                tracing::info!(name, namespace, ?goal, is_removal, "policy is up to date");
            }
            Ok(Finding::Differs { .. }) => {
                tracing::info!(name, namespace, ?goal, "policy differs");
            }
            Ok(Finding::Failed(problem)) => {
                let error = &problem.message;
                tracing::warn!(name, namespace, error, "policy not changed");
            }
            Err(error) => {
                let error = error.problem().message;
                tracing::warn!(name, namespace, error, "policy not compared");
            }
        }
        result
    }
}

/// Adds the expiry of the credential. Not all versions of an API tell it, so the comparison does not
/// fail without it.
async fn with_expiry(api: &TailnetApi, comparison: Comparison) -> Comparison {
    let expiry = api.credential_expiry().await;
    let credential_expires = expiry.unwrap_or_else(|error| {
        tracing::debug!(%error, "expiry of the credential is unknown");
        None
    });
    Comparison {
        credential_expires,
        ..comparison
    }
}

/// Sends the requests of an exchange.
async fn converse(api: &TailnetApi, mut exchange: Exchange) -> Result<Comparison, CredentialError> {
    let mut request = Request::Read;
    loop {
        request = match request {
            Request::Read => {
                let policy = api.policy().await?;
                exchange.read(&policy.text, policy.guard)
            }
            Request::Validate { text } => exchange.validated(&api.validate_policy(&text).await?),
            Request::Write { text, guard } => match api.write_policy(&text, &guard).await {
                Ok(is_written) => exchange.written(is_written),
                // The next read shows whether the policy was written.
                Err(error) if error.may_have_happened() => match exchange.written(false) {
                    Request::Read => Request::Read,
                    _ => return Err(error.into()),
                },
                Err(error) => return Err(error.into()),
            },
            Request::End(finding) => return Ok(exchange.end(finding)),
        };
    }
}
