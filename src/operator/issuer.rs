//! Creation of auth keys for relays that request them, with the credential of their PeerRelay.
//!
//! Passes over PeerRelays neither wait for the API of a tailnet nor fail with it: a task for each
//! PeerRelay creates the keys that a pass has planned, and the next pass stores them. A key that is
//! lost between the two, because the operator ends, expires unused, and another one is created.

mod attempts;
mod create;

use std::{sync::Arc, time::Duration};

use futures::Stream;
use kube_runtime::reflector::ObjectRef;
use tokio::time::Instant;

use self::{
    attempts::{Attempts, DueKeys},
    create::{Order, Outcome, create},
};
use super::{
    api_clients::{ApiAccess, ApiClients},
    credential::{CredentialProblem, Issuing},
    plan::Plan,
    tasks::{Due, Tasks},
    validate::{Credential, ValidSpec},
};
use crate::{config::issued_keys::IssuedKeys, crd::PeerRelay, sealed};

/// Creates auth keys in tasks of its own. Clones share them.
#[derive(Clone)]
pub struct Issuer(Arc<Shared>);

struct Shared {
    clients: ApiClients,
    tasks: Tasks<State>,
}

/// The auth keys of one PeerRelay.
#[derive(Default)]
struct State {
    /// Auth keys that the next passes store.
    issued: IssuedKeys,
    attempts: Attempts,
    last: Option<Result<(), CredentialProblem>>,
}

impl Issuer {
    /// Makes an issuer, and the stream of PeerRelays whose tasks have ended.
    pub fn new(clients: ApiClients) -> (Self, impl Stream<Item = ObjectRef<PeerRelay>> + Send) {
        let (tasks, ended) = Tasks::new();
        (Self(Arc::new(Shared { clients, tasks })), ended)
    }

    /// Results of earlier attempts for a PeerRelay.
    pub fn issuing(&self, relay: &ObjectRef<PeerRelay>) -> Issuing {
        let issuing = self.0.tasks.read(relay, |state| Issuing {
            issued: state.issued.clone(),
            last: state.last.clone(),
        });
        issuing.unwrap_or_default()
    }

    /// Starts a task for the auth keys that `plan` lacks, unless one runs. `seen` are the auth keys
    /// from which the plan was made. Returns the time until the next attempt, if one must wait.
    pub fn issue(
        &self,
        relay: ObjectRef<PeerRelay>,
        spec: &ValidSpec,
        seen: &IssuedKeys,
        plan: &Plan,
    ) -> Option<Duration> {
        let Credential::Api(account) = &spec.tailnet.credential else {
            self.forget(&relay);
            return None;
        };
        let uid = &spec.owner.reference.uid;
        let settle = |state: &mut State| state.settle(seen, plan);
        let due = |state: &mut State| {
            let due = state.due(plan, Instant::now());
            match due.now.is_empty() {
                true => Due::After(due.wait),
                false => Due::Now(due.now),
            }
        };
        let wanted = match self.0.tasks.next(&relay, uid, settle, due) {
            Due::Now(wanted) => wanted,
            Due::After(wait) => return wait,
        };
        let order = Order {
            uid: uid.clone(),
            access: ApiAccess {
                relay,
                namespace: spec.owner.namespace.clone(),
                account: Ok(account.clone()),
            },
            wanted,
        };
        tokio::spawn(self.clone().run(order));
        None
    }

    /// Forgets a PeerRelay that was deleted, or that has another kind of credential.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.0.tasks.forget(relay);
        self.0.clients.forget(relay);
    }

    async fn run(self, order: Order) {
        let outcome = create(&self.0.clients, &order).await;
        let finish = |state: &mut State| state.finish(outcome, Instant::now());
        self.0.tasks.end(order.access.relay, &order.uid, finish);
    }
}

impl State {
    /// Forgets auth keys that a pass has seen and whose relays do not request them any more. Keys
    /// that were created after the view of the pass was taken remain for the next one.
    fn settle(&mut self, seen: &IssuedKeys, plan: &Plan) {
        self.issued.0.retain(|relay, issued| {
            let answers = |keys: &IssuedKeys| keys.answer(relay, &issued.request).is_some();
            let mut regions = plan.regions.iter();
            !answers(seen) || regions.any(|region| answers(&region.keys.issued))
        });
    }

    /// The auth keys to create now. Requests to which nothing can be sealed get none.
    fn due(&mut self, plan: &Plan, now: Instant) -> DueKeys {
        let wanted = plan.regions.iter().flat_map(|region| &region.keys.wanted);
        let issued = &self.issued;
        let missing =
            wanted.filter(|wanted| issued.answer(&wanted.relay, &wanted.request).is_none());
        let mut due = self.attempts.due(missing, now);
        due.now
            .retain(|wanted| sealed::is_recipient(&wanted.request));
        due
    }

    /// Records the results of a task.
    fn finish(&mut self, outcome: Outcome, now: Instant) {
        for relay in outcome.issued.0.keys() {
            self.attempts.created(relay, now);
        }
        self.issued.0.extend(outcome.issued.0);
        self.last = Some(match &outcome.error {
            None => Ok(()),
            Some(error) => {
                self.attempts.failed(error, now);
                Err(error.problem())
            }
        });
    }
}

#[cfg(test)]
mod tests;
