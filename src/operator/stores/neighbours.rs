//! Watch of all PeerRelays, with the changes that affect others in the same tailnet.

use futures::{Stream, StreamExt, channel::mpsc};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, Store},
    watcher::{self, Event},
};

use super::{
    Scope, Touched,
    change_filter::ChangeFilter,
    guard::{UnreadableObjects, readable},
};
use crate::{crd::PeerRelay, operator::tailnet::seen_by_neighbours};

/// Returns all readable PeerRelays, a stream of added, removed and changed ones, and a stream with
/// a signal for each change that affects others.
pub(super) fn watch(
    scope: &Scope,
    unreadable: &UnreadableObjects,
) -> (
    Store<PeerRelay>,
    impl Stream<Item = Touched<PeerRelay>> + Send + use<>,
    impl Stream<Item = ()> + Send + use<>,
) {
    let (store, writer) = reflector::store();
    let mut filter = ChangeFilter::new(seen_by_neighbours);
    // One waiting signal is enough for any number of changes. Each sender has one more slot.
    let (mut sender, receiver) = mpsc::channel(0);
    let events = scope.events(watcher::Config::default());
    let stream = readable(events, store.clone(), unreadable.clone())
        .map(Ok)
        .modify(|relay: &mut PeerRelay| relay.metadata.managed_fields = None)
        .reflect(writer)
        .inspect(move |event| {
            if let Ok(event) = event
                && matters(&mut filter, event)
            {
                // The channel is full. The waiting signal covers this change too.
                let _ = sender.try_send(());
            }
        })
        .touched_objects();
    (store, stream, receiver)
}

/// Returns whether `event` affects other PeerRelays.
fn matters<T: PartialEq>(
    filter: &mut ChangeFilter<PeerRelay, T>,
    event: &Event<PeerRelay>,
) -> bool {
    let others = match event {
        Event::Apply(_) | Event::InitApply(_) => 1,
        Event::Delete(_) | Event::Init | Event::InitDone => 0,
    };
    filter.record(event) && filter.len() > others
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{crd::PeerRelayStatus, operator::fixtures};

    #[test]
    fn others_are_told_of_what_matters_to_them_and_of_nothing_else() {
        let mut filter = ChangeFilter::new(seen_by_neighbours);
        let mut is_change = |event: Event<PeerRelay>| matters(&mut filter, &event);
        let first = named("first");
        assert!(!is_change(Event::Apply(first.clone())), "there is no other");
        assert!(is_change(Event::Apply(named("second"))));
        let mut with_status = first.clone();
        with_status.status = Some(PeerRelayStatus::default());
        is_change(Event::Apply(with_status.clone()));
        let mut sessions = with_status.clone();
        sessions.status.get_or_insert_default().sessions = 7;
        assert!(!is_change(Event::Apply(sessions)));
        let mut raised = with_status;
        raised.spec.max_relays = Some(9);
        assert!(is_change(Event::Apply(raised)));
        assert!(is_change(Event::Delete(first)));
    }

    #[test]
    fn one_that_went_unseen_is_noticed() {
        let mut filter = ChangeFilter::new(seen_by_neighbours);
        let mut is_change = |event: Event<PeerRelay>| matters(&mut filter, &event);
        for name in ["first", "second"] {
            is_change(Event::Apply(named(name)));
        }
        is_change(Event::Init);
        is_change(Event::InitApply(named("first")));
        assert!(is_change(Event::InitDone));
    }

    fn named(name: &str) -> PeerRelay {
        let mut relay = fixtures::relay(json!({}));
        relay.metadata.name = Some(name.into());
        relay
    }
}
