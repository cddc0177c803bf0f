//! Number and waiting times of PeerRelays that wait for their reconciliation.
//!
//! The controller of kube does not export its queue. Triggers are recorded here before they reach
//! it, and removed when the reconciliation begins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use kube_runtime::reflector::ObjectRef;

use crate::crd::PeerRelay;

/// Namespace and name of a PeerRelay.
type Key = (String, String);

/// Copy of the queue. Clones share it.
#[derive(Clone, Default)]
pub struct Queue(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Time of the first trigger of each PeerRelay since its last reconciliation began.
    waiting: HashMap<Key, Instant>,
    added: u64,
}

/// State of the queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Number of PeerRelays that wait.
    pub waiting: usize,
    /// Longest time that a PeerRelay has waited.
    pub oldest: Duration,
    /// Number of times that a PeerRelay began to wait.
    pub added: u64,
}

impl Queue {
    /// Records that a PeerRelay will be reconciled.
    pub fn add(&self, relay: &ObjectRef<PeerRelay>, now: Instant) {
        let key = (
            relay.namespace.clone().unwrap_or_default(),
            relay.name.clone(),
        );
        self.add_key(key, now);
    }

    /// Records that all of these PeerRelays will be reconciled.
    pub fn add_all(&self, relays: &[Arc<PeerRelay>], now: Instant) {
        for relay in relays {
            self.add(&ObjectRef::from_obj(&**relay), now);
        }
    }

    /// Records that the PeerRelay that owns an object will be reconciled, if there is one.
    pub fn add_owner(&self, child: &impl Resource, now: Instant) {
        let controller = |owner: &&OwnerReference| {
            owner.controller == Some(true) && owner.kind == PeerRelay::kind(&())
        };
        if let Some(owner) = child.owner_references().iter().find(controller) {
            let namespace = child.meta().namespace.clone();
            self.add_key((namespace.unwrap_or_default(), owner.name.clone()), now);
        }
    }

    /// Wraps a mapper from a changed object to the affected PeerRelays, so that they are recorded.
    pub fn recording<T, I>(
        &self,
        mapper: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> impl Fn(T) -> Vec<ObjectRef<PeerRelay>> + Send + Sync + 'static
    where
        I: IntoIterator<Item = ObjectRef<PeerRelay>>,
    {
        let queue = self.clone();
        move |seen| {
            let relays: Vec<_> = mapper(seen).into_iter().collect();
            let now = Instant::now();
            relays.iter().for_each(|relay| queue.add(relay, now));
            relays
        }
    }

    /// Removes a PeerRelay, because its reconciliation begins or it was deleted. Returns its
    /// waiting time, or `None` if only a timer triggered the reconciliation.
    pub fn take(&self, name: &str, namespace: &str, now: Instant) -> Option<Duration> {
        let key = (namespace.to_owned(), name.to_owned());
        let since = self.state().waiting.remove(&key)?;
        Some(now.saturating_duration_since(since))
    }

    /// Measures the queue.
    pub fn depth(&self, now: Instant) -> Depth {
        let state = self.state();
        let oldest = state.waiting.values().min();
        Depth {
            waiting: state.waiting.len(),
            oldest: oldest.map_or(Duration::ZERO, |since| {
                now.saturating_duration_since(*since)
            }),
            added: state.added,
        }
    }

    fn add_key(&self, key: Key, now: Instant) {
        let mut state = self.state();
        let state = &mut *state;
        state.waiting.entry(key).or_insert_with(|| {
            state.added += 1;
            now
        });
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_peer_relay_waits_from_its_first_trigger_until_its_turn() {
        let queue = Queue::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let edge = ObjectRef::new("edge").within("relays");
        queue.add(&edge, start);
        queue.add(&edge, after(1));
        queue.add(&ObjectRef::new("edge").within("other"), after(2));
        let depth = queue.depth(after(5));
        assert_eq!((depth.waiting, depth.added), (2, 2));
        assert_eq!(depth.oldest, Duration::from_secs(5));
        let waited = queue.take("edge", "relays", after(6));
        assert_eq!(waited, Some(Duration::from_secs(6)));
        assert_eq!(queue.take("edge", "relays", after(6)), None);
        queue.add(&edge, after(7));
        assert_eq!(queue.depth(after(7)).added, 3);
    }

    #[test]
    fn children_make_their_owner_wait_and_strangers_nobody() {
        let queue = Queue::default();
        let owned = |kind: &str, controller: bool| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {
                "name": "c", "namespace": "relays",
                "ownerReferences": [{"apiVersion": "peerrelay.dev/v1alpha1", "kind": kind,
                    "name": "edge", "uid": "u", "controller": controller}],
            }}))
            .expect("the fixture is a ConfigMap")
        };
        let now = Instant::now();
        for stranger in [owned("Deployment", true), owned("PeerRelay", false)] {
            queue.add_owner(&stranger, now);
        }
        assert_eq!(queue.depth(now).waiting, 0);
        queue.add_owner(&owned("PeerRelay", true), now);
        assert!(queue.take("edge", "relays", now).is_some());
    }
}
