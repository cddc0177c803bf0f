//! All PeerRelays, and when one of them changes in a way that matters to others in its tailnet.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use futures::{Stream, StreamExt, channel::mpsc};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, ObjectRef, Store},
    watcher::{self, Event},
};

use super::{
    Scope, Touched,
    guard::{UnreadableObjects, readable},
};
use crate::{crd::PeerRelay, operator::tailnet::seen_by_neighbours};

/// All PeerRelays that can be read, a stream with each that has come, gone or changed, and one with a word whenever
/// that matters to others.
pub(super) fn watch(
    scope: &Scope,
    unreadable: &UnreadableObjects,
) -> (
    Store<PeerRelay>,
    impl Stream<Item = Touched<PeerRelay>> + Send + use<>,
    impl Stream<Item = ()> + Send + use<>,
) {
    let (store, writer) = reflector::store();
    let mut seen = Seen::new(seen_by_neighbours);
    // One word that waits is enough, however much has changed by then; each sender has one more.
    let (mut sender, receiver) = mpsc::channel(0);
    let events = scope.events(watcher::Config::default());
    let stream = readable(events, store.clone(), unreadable.clone())
        .map(Ok)
        .modify(|relay: &mut PeerRelay| relay.metadata.managed_fields = None)
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(event) = event
                && seen.note(event)
            {
                // Full: the word that waits is about this, too.
                let _ = sender.try_send(());
            }
        })
        .touched_objects();
    (store, stream, receiver)
}

/// What was told of each PeerRelay, as far as others are concerned.
struct Seen<F, T> {
    facts: F,
    told: HashMap<ObjectRef<PeerRelay>, T>,
    listed: HashSet<ObjectRef<PeerRelay>>,
}

impl<F: Fn(&PeerRelay) -> T, T: PartialEq> Seen<F, T>
where
    ObjectRef<PeerRelay>: Eq + Hash,
{
    fn new(facts: F) -> Self {
        Self {
            facts,
            told: HashMap::new(),
            listed: HashSet::new(),
        }
    }

    /// Whether `event` matters to others than the PeerRelay that it is about.
    fn note(&mut self, event: &Event<PeerRelay>) -> bool {
        match event {
            Event::Apply(relay) => self.changed(relay),
            Event::InitApply(relay) => {
                self.listed.insert(ObjectRef::from_obj(relay));
                self.changed(relay)
            }
            Event::Delete(relay) => {
                self.told.remove(&ObjectRef::from_obj(relay));
                !self.told.is_empty()
            }
            Event::Init => {
                self.listed.clear();
                false
            }
            // Who went while nobody watched is not told by name.
            Event::InitDone => {
                let before = self.told.len();
                self.told.retain(|key, _| self.listed.contains(key));
                self.told.len() < before
            }
        }
    }

    fn changed(&mut self, relay: &PeerRelay) -> bool {
        let now = (self.facts)(relay);
        let key = ObjectRef::from_obj(relay);
        let same = self.told.get(&key) == Some(&now);
        self.told.insert(key, now);
        !same && self.told.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{crd::PeerRelayStatus, operator::fixtures};

    #[test]
    fn others_are_told_of_what_matters_to_them_and_of_nothing_else() {
        let mut seen = Seen::new(seen_by_neighbours);
        let first = named("first");
        assert!(
            !seen.note(&Event::Apply(first.clone())),
            "there is no other"
        );
        assert!(seen.note(&Event::Apply(named("second"))));
        let mut told = first.clone();
        told.status = Some(PeerRelayStatus::default());
        seen.note(&Event::Apply(told.clone()));
        let mut sessions = told.clone();
        sessions.status.get_or_insert_default().sessions = 7;
        assert!(!seen.note(&Event::Apply(sessions)));
        let mut raised = told;
        raised.spec.max_relays = Some(9);
        assert!(seen.note(&Event::Apply(raised)));
        assert!(seen.note(&Event::Delete(first)));
    }

    #[test]
    fn one_that_went_unseen_is_noticed() {
        let mut seen = Seen::new(seen_by_neighbours);
        for name in ["first", "second"] {
            seen.note(&Event::Apply(named(name)));
        }
        seen.note(&Event::Init);
        seen.note(&Event::InitApply(named("first")));
        assert!(seen.note(&Event::InitDone));
    }

    fn named(name: &str) -> PeerRelay {
        let mut relay = fixtures::relay(json!({}));
        relay.metadata.name = Some(name.into());
        relay
    }
}
