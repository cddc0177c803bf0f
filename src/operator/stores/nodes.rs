//! The nodes of the cluster, and when they change in a way that matters.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, Store},
    watcher::{self, Event},
};

use super::Scope;
use crate::names;

/// All nodes, and a stream with one of them whenever any has come, gone or changed.
pub(super) fn watch(
    scope: &Scope,
) -> (
    Store<Node>,
    impl Stream<Item = watcher::Result<Node>> + Send + use<>,
) {
    let (store, writer) = reflector::store();
    let mut seen = Seen::default();
    let stream = scope
        .cluster_events(watcher::Config::default())
        .map(Ok)
        .modify(prune)
        .reflect(writer)
        .filter_map(move |event| {
            let touched = match event {
                Ok(event) => seen.note(event).map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(touched)
        });
    (store, stream)
}

/// Leaves labels, our annotation, taints and addresses: the rest is large, and changes all the time.
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

/// What was told of each node.
#[derive(Default)]
struct Seen {
    told: HashMap<String, u64>,
    listed: HashSet<String>,
}

impl Seen {
    /// The node of `event`, unless it is as it was.
    fn note(&mut self, event: Event<Node>) -> Option<Node> {
        match event {
            Event::Apply(node) => self.changed(node),
            Event::InitApply(node) => {
                self.listed.insert(node.name_any());
                self.changed(node)
            }
            Event::Delete(node) => {
                self.told.remove(&node.name_any());
                Some(node)
            }
            Event::Init => {
                self.listed.clear();
                None
            }
            // Who went while nobody watched is not told by name.
            Event::InitDone => {
                let before = self.told.len();
                self.told.retain(|name, _| self.listed.contains(name));
                (self.told.len() < before).then(Node::default)
            }
        }
    }

    fn changed(&mut self, node: Node) -> Option<Node> {
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
        let now = hasher.finish();
        (self.told.insert(node.name_any(), now) != Some(now)).then_some(node)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn heartbeats_are_no_changes_and_cordons_are() {
        let mut seen = Seen::default();
        assert!(seen.note(Event::Apply(node("n1", json!({})))).is_some());
        let mut beat = node("n1", json!({}));
        beat.metadata.resource_version = Some("2".into());
        assert!(seen.note(Event::Apply(beat)).is_none());
        let cordoned = node("n1", json!({"unschedulable": true}));
        assert!(seen.note(Event::Apply(cordoned)).is_some());
    }

    #[test]
    fn nodes_that_went_unseen_are_noticed() {
        let mut seen = Seen::default();
        for name in ["n1", "n2"] {
            seen.note(Event::Apply(node(name, json!({}))));
        }
        seen.note(Event::Init);
        assert!(seen.note(Event::InitApply(node("n1", json!({})))).is_none());
        assert!(seen.note(Event::InitDone).is_some());
        assert!(seen.note(Event::Delete(node("n1", json!({})))).is_some());
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
