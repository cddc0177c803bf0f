//! Creation of auth keys for relays that request them, with the credential of their PeerRelay.
//!
//! Passes over PeerRelays neither wait for the API of a tailnet nor fail with it: a task for each
//! PeerRelay creates the keys that a pass has planned, and the next pass stores them. A key that is
//! lost between the two, because the operator ends, expires unused, and another one is created.

mod attempts;
mod create;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, channel::mpsc};
use kube_runtime::reflector::ObjectRef;
use tokio::time::Instant;

use self::{
    attempts::{Attempts, Due},
    create::{Order, Outcome, create},
};
use super::{
    api_clients::{ApiAccess, ApiClients},
    credential::{CredentialProblem, Issuing},
    plan::Plan,
    validate::{Credential, ValidSpec},
};
use crate::{config::issued_keys::IssuedKeys, crd::PeerRelay, sealed};

/// Creates auth keys in tasks of its own. Clones share them.
#[derive(Clone)]
pub struct Issuer(Arc<Shared>);

struct Shared {
    clients: ApiClients,
    states: Mutex<HashMap<ObjectRef<PeerRelay>, State>>,
    /// Receives each PeerRelay whose task has ended.
    ended: mpsc::UnboundedSender<ObjectRef<PeerRelay>>,
}

/// The auth keys of one PeerRelay.
#[derive(Default)]
struct State {
    /// UID of the PeerRelay: another one of its name has nothing of it.
    uid: String,
    is_running: bool,
    /// Auth keys that the next passes store.
    issued: IssuedKeys,
    attempts: Attempts,
    last: Option<Result<(), CredentialProblem>>,
}

impl Issuer {
    /// Makes an issuer, and the stream of PeerRelays whose tasks have ended.
    pub fn new(clients: ApiClients) -> (Self, impl Stream<Item = ObjectRef<PeerRelay>> + Send) {
        let (ended, stream) = mpsc::unbounded();
        let shared = Shared {
            clients,
            states: Mutex::default(),
            ended,
        };
        (Self(Arc::new(shared)), stream)
    }

    /// Results of earlier attempts for a PeerRelay.
    pub fn issuing(&self, relay: &ObjectRef<PeerRelay>) -> Issuing {
        let states = self.0.lock();
        let state = states.get(relay);
        state.map_or_else(Issuing::default, |state| Issuing {
            issued: state.issued.clone(),
            last: state.last.clone(),
        })
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
        let Credential::OAuth(credential) = &spec.tailnet.credential else {
            self.forget(&relay);
            return None;
        };
        let uid = &spec.owner.reference.uid;
        let mut states = self.0.lock();
        let state = states.entry(relay.clone()).or_default();
        if state.uid != *uid {
            *state = State {
                uid: uid.clone(),
                ..State::default()
            };
        }
        state.settle(seen, plan);
        if state.is_running {
            return None;
        }
        let due = state.due(plan, Instant::now());
        if due.now.is_empty() {
            return due.wait;
        }
        state.is_running = true;
        let order = Order {
            uid: uid.clone(),
            access: ApiAccess {
                relay,
                namespace: spec.owner.namespace.clone(),
                credential: credential.clone(),
                ca_bundle: spec.tailnet.ca_bundle.clone(),
            },
            wanted: due.now,
        };
        tokio::spawn(self.clone().run(order));
        None
    }

    /// Forgets a PeerRelay that was deleted, or that has another kind of credential.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.0.lock().remove(relay);
        self.0.clients.forget(relay);
    }

    async fn run(self, order: Order) {
        let outcome = create(&self.0.clients, &order).await;
        let relay = order.access.relay;
        if let Some(state) = self.0.lock().get_mut(&relay)
            && state.uid == order.uid
        {
            state.finish(outcome, Instant::now());
        }
        // It fails only if the operator ends.
        self.0.ended.unbounded_send(relay).ok();
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
    fn due(&mut self, plan: &Plan, now: Instant) -> Due {
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
        self.is_running = false;
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<PeerRelay>, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
