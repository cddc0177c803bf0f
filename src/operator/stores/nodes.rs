//! Watch of the nodes of the cluster and of their relevant changes.

use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, Store},
    watcher::{self, Event},
};

use super::{Scope, change_filter::ChangeFilter};
use crate::names;

/// Returns all nodes, and a stream with any node whenever one was added, removed or changed.
pub(super) fn watch(
    scope: &Scope,
) -> (
    Store<Node>,
    impl Stream<Item = watcher::Result<Node>> + Send + use<>,
) {
    let (store, writer) = reflector::store();
    let mut filter = ChangeFilter::new(facts);
    let stream = scope
        .cluster_events(watcher::Config::default())
        .map(Ok)
        .modify(prune)
        .reflect(writer)
        .filter_map(move |event| {
            let touched = match event {
                Ok(event) => touched(&mut filter, &event).map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(touched)
        });
    (store, stream)
}

/// Keeps labels, the operator's annotation, taints and addresses. The rest is large and changes
/// often.
fn prune(node: &mut Node) {
    node.metadata.managed_fields = None;
    let own = |key: &String| key == names::STATIC_ENDPOINTS_ANNOTATION;
    if let Some(annotations) = &mut node.metadata.annotations {
        annotations.retain(|key, _| own(key));
    }
    if let Some(status) = node.status.take() {
        let kept = node.status.get_or_insert_default();
        kept.addresses = status.addresses;
    }
}

/// Returns any node if `event` is relevant. A controller refers to it by its name.
fn touched(filter: &mut ChangeFilter<Node, u64>, event: &Event<Node>) -> Option<Node> {
    filter.record(event).then(|| {
        let mut any = Node::default();
        any.metadata.name = Some("any".into());
        any
    })
}

/// Returns a checksum of the relevant fields of a node.
fn facts(node: &Node) -> u64 {
    let mut hasher = DefaultHasher::new();
    let (spec, status) = (node.spec.as_ref(), node.status.as_ref());
    let facts = (
        &node.metadata.uid,
        &node.metadata.labels,
        &node.metadata.annotations,
        node.metadata.deletion_timestamp.is_some(),
    );
    facts.hash(&mut hasher);
    let scheduling = serde_json::json!([
        spec.and_then(|spec| spec.unschedulable),
        spec.and_then(|spec| spec.taints.as_ref()),
        status.and_then(|status| status.addresses.as_ref()),
    ]);
    scheduling.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use kube_runtime::reflector::ObjectRef;

    use super::*;

    #[test]
    fn heartbeats_are_no_changes_and_cordons_are() {
        let mut filter = ChangeFilter::new(facts);
        let mut is_change = |event: Event<Node>| filter.record(&event);
        assert!(is_change(Event::Apply(node("n1", json!({})))));
        let mut beat = node("n1", json!({}));
        beat.metadata.resource_version = Some("2".into());
        assert!(!is_change(Event::Apply(beat)));
        let cordoned = node("n1", json!({"unschedulable": true}));
        assert!(is_change(Event::Apply(cordoned)));
    }

    #[test]
    fn nodes_that_went_unseen_are_noticed() {
        let mut filter = ChangeFilter::new(facts);
        let mut is_change = |event: Event<Node>| filter.record(&event);
        for name in ["n1", "n2"] {
            is_change(Event::Apply(node(name, json!({}))));
        }
        is_change(Event::Init);
        assert!(!is_change(Event::InitApply(node("n1", json!({})))));
        assert!(is_change(Event::InitDone));
        assert!(is_change(Event::Delete(node("n1", json!({})))));
    }

    #[test]
    fn a_controller_can_refer_to_what_it_is_told() {
        let mut filter = ChangeFilter::new(facts);
        let mut touched = |event: Event<Node>| touched(&mut filter, &event);
        let named = |node: Option<Node>| ObjectRef::from_obj(&node.unwrap()).name;
        assert_eq!(named(touched(Event::Apply(node("n1", json!({}))))), "any");
        assert_eq!(touched(Event::Init), None);
        assert_eq!(named(touched(Event::InitDone)), "any", "it went unseen");
    }

    #[test]
    fn only_what_is_looked_at_is_kept() {
        let mut whole = node(
            "n1",
            json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}),
        );
        whole.status = serde_json::from_value(json!({
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "images": [{"names": ["a"], "sizeBytes": 1}],
        }))
        .unwrap();
        prune(&mut whole);
        let status = whole.status.unwrap();
        assert_eq!(status.addresses.unwrap().len(), 1);
        assert!(status.images.is_none());
        assert!(whole.spec.unwrap().taints.is_some());
    }

    fn node(name: &str, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }
}
