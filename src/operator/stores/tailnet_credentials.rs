//! Watch of the TailnetCredentials of the cluster.

use std::future::ready;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{PartialObjectMeta, PartialObjectMetaExt};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, ObjectRef, Store},
    watcher::{self, Event},
};

use super::{
    Scope, Touched,
    change_filter::ChangeFilter,
    debounce,
    guard::{UnreadableObjects, readable},
};
use crate::{crd::TailnetCredential, operator::referred_credential::Referred};

/// The TailnetCredentials of the cluster.
pub(in crate::operator) struct TailnetCredentials {
    store: Store<TailnetCredential>,
    unreadable: UnreadableObjects,
}

/// A TailnetCredential that stands for all of them.
type Any = PartialObjectMeta<TailnetCredential>;

impl TailnetCredentials {
    /// Starts the watch. Changes that come together are one event.
    pub(super) fn watch(scope: &Scope) -> (Self, impl Stream<Item = Touched<Any>> + Send + use<>) {
        let unreadable = UnreadableObjects::default();
        let (store, writer) = reflector::store();
        let mut filter = ChangeFilter::new(facts);
        let events = scope.cluster_events(watcher::Config::default());
        let stream = readable(events, store.clone(), unreadable.clone())
            .map(Ok)
            .modify(|credential: &mut TailnetCredential| credential.metadata.managed_fields = None)
            .reflect(writer)
            .filter_map(move |event| {
                ready(match event {
                    Ok(event) => touched(&mut filter, &event).map(Ok),
                    Err(error) => Some(Err(error)),
                })
            });
        let stream = debounce::debounced(stream, |_: &Any| ());
        (Self { store, unreadable }, stream)
    }

    /// Finds the TailnetCredential of this name.
    pub(in crate::operator) fn find(&self, name: &str) -> Referred {
        if let Some(found) = self.store.get(&ObjectRef::new(name)) {
            return Referred::Found(found);
        }
        let unreadable = self.unreadable.all();
        let mut unreadable = unreadable.iter();
        match unreadable.find(|object| object.metadata.name.as_deref() == Some(name)) {
            Some(object) => Referred::Unreadable(object.error.clone()),
            None => Referred::Missing,
        }
    }

    pub(super) async fn wait_until_ready(&self) -> Result<(), reflector::store::WriterDropped> {
        self.store.wait_until_ready().await
    }
}

/// The facts about a TailnetCredential that change with its specification.
fn facts(credential: &TailnetCredential) -> (Option<String>, Option<i64>) {
    let metadata = &credential.metadata;
    (metadata.uid.clone(), metadata.generation)
}

/// Returns any TailnetCredential if one was added, removed or changed.
fn touched<T: PartialEq>(
    filter: &mut ChangeFilter<TailnetCredential, T>,
    event: &Event<TailnetCredential>,
) -> Option<Any> {
    filter.record(event).then(|| {
        let metadata = ObjectMeta {
            name: Some("any".into()),
            ..ObjectMeta::default()
        };
        metadata.into_response_partial()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::operator::fixtures;

    fn credential(name: &str, generation: i64) -> TailnetCredential {
        let spec = json!({"oauth": {"secretName": "s"}, "allowedNamespaces": ["*"]});
        let mut credential = fixtures::tailnet_credential(&spec);
        credential.metadata.name = Some(name.into());
        credential.metadata.generation = Some(generation);
        credential
    }

    #[test]
    fn changes_of_the_specification_and_deletions_are_noticed() {
        let mut filter = ChangeFilter::new(facts);
        let mut is_change = |event| touched(&mut filter, &event).is_some();
        assert!(is_change(Event::Apply(credential("a", 1))));
        let mut labelled = credential("a", 1);
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!is_change(Event::Apply(labelled)));
        assert!(is_change(Event::Apply(credential("a", 2))));
        assert!(is_change(Event::Delete(credential("a", 2))));
    }

    #[test]
    fn the_deletion_of_the_last_one_is_noticed_in_a_new_list() {
        let mut filter = ChangeFilter::new(facts);
        let mut is_change = |event| touched(&mut filter, &event).is_some();
        is_change(Event::Apply(credential("a", 1)));
        assert!(!is_change(Event::Init));
        assert!(is_change(Event::InitDone));
    }

    #[test]
    fn a_controller_can_refer_to_the_one_that_stands_for_all() {
        let mut filter = ChangeFilter::new(facts);
        let any = touched(&mut filter, &Event::Apply(credential("a", 1))).unwrap();
        assert_eq!(ObjectRef::from_obj(&any).name, "any");
    }
}
