//! Handling of unreadable objects. One of them must not hide the others of its kind.
//!
//! A newer version or a user may have written an object that the schema of the API server accepts
//! and this program cannot parse. A watch of the plain type would fail at such an object, restart,
//! and fail again.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube_runtime::{
    reflector::{ObjectRef, Store},
    watcher::Event,
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use tokio::sync::Notify;

/// Longest error in a report, in characters.
const LONGEST_ERROR: usize = 400;
/// Largest status that is kept, in bytes.
const LARGEST_STATUS: usize = 64 * 1024;
/// Maximum number of objects of a kind that are reported, because a user can write many.
const MOST: usize = 1_000;

/// Object, or the readable part of an unreadable object.
#[derive(Debug, Clone)]
pub enum Guarded<K> {
    /// The whole object.
    Whole(K),
    /// The object cannot be read.
    Unreadable(Box<Unreadable>),
}

/// Readable part of an object that cannot be parsed as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unreadable {
    /// Name, namespace, uid, version, generation and time of deletion.
    pub metadata: ObjectMeta,
    /// The status, unless it is large or cannot be read at all.
    pub status: Option<Value>,
    /// Parse error without its position, which differs with each version of the object.
    pub error: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The status is kept as text, because the depth of parsed values is limited.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str(text.get()) {
            Ok(object) => Ok(Self::Whole(object)),
            Err(error) => Unreadable::read(text.get(), &error)
                .map(|unreadable| Self::Unreadable(Box::new(unreadable)))
                .map_err(serde::de::Error::custom),
        }
    }
}

impl Unreadable {
    fn read(text: &str, error: &serde_json::Error) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Known {
            metadata: Metadata,
            #[serde(default)]
            status: Option<Box<RawValue>>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            name: Option<String>,
            namespace: Option<String>,
            uid: Option<String>,
            resource_version: Option<String>,
            generation: Option<i64>,
            deletion_timestamp: Option<Value>,
        }
        let Known { metadata, status } = serde_json::from_str(text)?;
        let status = status.filter(|status| status.get().len() <= LARGEST_STATUS);
        let time = metadata.deletion_timestamp;
        let error = error.to_string();
        let error = error.rsplit_once(" at line ").map_or(&*error, |(e, _)| e);
        Ok(Self {
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                generation: metadata.generation,
                deletion_timestamp: time.and_then(|time| serde_json::from_value(time).ok()),
                ..ObjectMeta::default()
            },
            status: status.and_then(|status| serde_json::from_str(status.get()).ok()),
            error: error.chars().take(LONGEST_ERROR).collect(),
        })
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Whole(object) => object.meta(),
            Self::Unreadable(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Whole(object) => object.meta_mut(),
            Self::Unreadable(unreadable) => &mut unreadable.metadata,
        }
    }
}

/// Namespace and name.
type Key = (Option<String>, String);

/// The unreadable objects of a kind that exist; clones share them.
#[derive(Debug, Clone, Default)]
pub struct UnreadableObjects(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Arc<Unreadable>>,
    /// Objects that must be reported.
    unreported: BTreeSet<Key>,
    /// Unreadable objects in the list that is being read.
    listed: Option<BTreeSet<Key>>,
}

impl UnreadableObjects {
    /// All unreadable objects that exist.
    pub fn all(&self) -> Vec<Arc<Unreadable>> {
        self.lock().objects.values().cloned().collect()
    }

    /// Waits for an object that has not been reported, and returns its current state.
    pub async fn next(&self) -> Arc<Unreadable> {
        loop {
            // A change after this check leaves a permit.
            {
                let mut state = self.lock();
                while let Some(key) = state.unreported.pop_first() {
                    if let Some(unreadable) = state.objects.get(&key) {
                        return unreadable.clone();
                    }
                }
            }
            self.0.changed.notified().await;
        }
    }

    /// Allows another report about an object, if it has not changed.
    pub fn report_again(&self, unreadable: &Unreadable) {
        let mut state = self.lock();
        let key = key(&unreadable.metadata);
        if state
            .objects
            .get(&key)
            .is_some_and(|now| **now == *unreadable)
        {
            state.unreported.insert(key);
        }
    }

    fn record(&self, unreadable: Unreadable) {
        let mut state = self.lock();
        let key = key(&unreadable.metadata);
        if state.objects.len() >= MOST && !state.objects.contains_key(&key) {
            return;
        }
        if let Some(listed) = &mut state.listed {
            listed.insert(key.clone());
        }
        state.objects.insert(key.clone(), Arc::new(unreadable));
        state.unreported.insert(key);
        drop(state);
        self.0.changed.notify_one();
    }

    fn forget(&self, metadata: &ObjectMeta) {
        self.lock().objects.remove(&key(metadata));
    }

    fn begin_list(&self) {
        self.lock().listed = Some(BTreeSet::new());
    }

    fn end_list(&self) {
        let mut state = self.lock();
        if let Some(listed) = state.listed.take() {
            state.objects.retain(|key, _| listed.contains(key));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(metadata: &ObjectMeta) -> Key {
    let name = metadata.name.clone().unwrap_or_default();
    (metadata.namespace.clone(), name)
}

/// Passes readable objects, and records the others. An object that becomes unreadable counts as
/// deleted from `store`, which contains the objects that passed before.
pub(super) fn readable<K>(
    events: impl Stream<Item = Event<Guarded<K>>>,
    store: Store<K>,
    unreadable: UnreadableObjects,
) -> impl Stream<Item = Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let gone = move |metadata: &ObjectMeta| {
        let name = metadata.name.as_deref().unwrap_or_default();
        let mut key = ObjectRef::new(name);
        key.namespace.clone_from(&metadata.namespace);
        store.get(&key).map(|old| Event::Delete((*old).clone()))
    };
    let part = move |event: Event<Guarded<K>>| match event {
        Event::Init => {
            unreadable.begin_list();
            Some(Event::Init)
        }
        Event::InitDone => {
            unreadable.end_list();
            Some(Event::InitDone)
        }
        Event::InitApply(Guarded::Whole(object)) => {
            unreadable.forget(object.meta());
            Some(Event::InitApply(object))
        }
        Event::Apply(Guarded::Whole(object)) => {
            unreadable.forget(object.meta());
            Some(Event::Apply(object))
        }
        Event::Delete(Guarded::Whole(object)) => {
            unreadable.forget(object.meta());
            Some(Event::Delete(object))
        }
        Event::InitApply(Guarded::Unreadable(object)) => {
            warn::<K>(&object);
            unreadable.record(*object);
            None
        }
        Event::Apply(Guarded::Unreadable(object)) => {
            warn::<K>(&object);
            let gone = gone(&object.metadata);
            unreadable.record(*object);
            gone
        }
        Event::Delete(Guarded::Unreadable(object)) => {
            unreadable.forget(&object.metadata);
            gone(&object.metadata)
        }
    };
    events.filter_map(move |event| std::future::ready(part(event)))
}

fn warn<K: Resource<DynamicType = ()>>(unreadable: &Unreadable) {
    let (name, namespace) = (&unreadable.metadata.name, &unreadable.metadata.namespace);
    let (kind, error) = (K::kind(&()), &unreadable.error);
    tracing::warn!(%kind, ?namespace, ?name, error, "cannot be read, left out");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use futures::FutureExt;
    use kube::{ResourceExt, core::WatchEvent};
    use kube_runtime::{WatchStreamExt, reflector};
    use serde_json::json;

    use super::*;
    use crate::crd::{PeerRelay, RelayNode};

    #[test]
    fn an_unknown_word_a_bad_time_and_depth_are_unreadable_and_name_the_object() {
        let relay = |spec: Value| {
            let mut relay = json!({
                "metadata": {"name": "edge", "namespace": "relays", "uid": "u", "generation": 4,
                             "resourceVersion": "7", "labels": {"a": "b"}},
                "spec": {"tailnet": {"authKey": {"secretName": "a"}}, "regions": []},
                "status": {"relays": "2/2"},
            });
            relay["spec"]
                .as_object_mut()
                .unwrap()
                .extend(spec.as_object().unwrap().clone());
            relay.to_string()
        };
        let whole: Guarded<PeerRelay> = serde_json::from_str(&relay(json!({}))).unwrap();
        assert!(matches!(whole, Guarded::Whole(_)));
        let deep = "[".repeat(4_000) + &"]".repeat(4_000);
        let deep =
            relay(json!({"template": {"podOverrides": {"x": "DEEP"}}})).replace("\"DEEP\"", &deep);
        let newer = relay(json!({"dataPath": "Quantum"}));
        for (text, error) in [
            (
                newer,
                "unknown variant `Quantum`, expected one of `Auto`, `Kernel`, `Socket`",
            ),
            (deep, "recursion limit exceeded"),
        ] {
            let guarded: Guarded<PeerRelay> = serde_json::from_str(&text).unwrap();
            assert_eq!(guarded.meta().resource_version.as_deref(), Some("7"));
            let Guarded::Unreadable(unreadable) = guarded else {
                panic!("{text} was read");
            };
            assert_eq!(unreadable.error, error);
            assert_eq!(unreadable.metadata.name.as_deref(), Some("edge"));
            assert_eq!(unreadable.metadata.generation, Some(4));
            assert_eq!(unreadable.metadata.labels, None);
            assert_eq!(unreadable.status, Some(json!({"relays": "2/2"})));
        }
        let node = json!({
            "metadata": {"name": "a"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": "1", "dataPath": "Socket",
                       "lastUpdateTime": "2026-01-01T00:00:00.1234567890123Z"},
        });
        let node: Guarded<RelayNode> = serde_json::from_str(&node.to_string()).unwrap();
        assert!(matches!(node, Guarded::Unreadable(_)));
    }

    #[test]
    fn events_of_a_watch_are_guarded_too() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"edge"},"spec":5}}"#;
        let event: WatchEvent<Guarded<PeerRelay>> = serde_json::from_str(line).unwrap();
        assert!(matches!(event, WatchEvent::Added(Guarded::Unreadable(_))));
    }

    #[tokio::test]
    async fn unreadable_objects_hide_no_others() {
        let (store, writer) = reflector::store();
        let unreadable = UnreadableObjects::default();
        let events = futures::stream::iter([
            Event::Init,
            Event::InitApply(whole("a")),
            Event::InitApply(strange("b", 1)),
            Event::InitApply(whole("c")),
            Event::InitDone,
            Event::Apply(strange("a", 2)),
            Event::Apply(whole("b")),
        ]);
        let events = readable(events, store.clone(), unreadable.clone());
        let touched = events.map(Ok).reflect(writer).touched_objects();
        let touched: Vec<_> = touched
            .map(|object| object.unwrap().name_any())
            .collect()
            .await;
        assert_eq!(touched, ["a", "c", "a", "b"]);
        let mut stored: Vec<_> = store
            .state()
            .iter()
            .map(|object| object.name_any())
            .collect();
        stored.sort();
        assert_eq!(stored, ["b", "c"]);
        let names: Vec<_> = unreadable
            .all()
            .iter()
            .map(|unreadable| unreadable.metadata.name.clone())
            .collect();
        assert_eq!(names, [Some("a".into())]);
    }

    #[tokio::test]
    async fn each_version_is_told_once_and_again_when_asked() {
        let unreadable = UnreadableObjects::default();
        let Guarded::Unreadable(first) = strange("a", 1) else {
            unreachable!()
        };
        unreadable.record(*first.clone());
        let next = unreadable.next().await;
        assert_eq!(*next, *first);
        assert!(unreadable.next().now_or_never().is_none());
        unreadable.report_again(&next);
        assert_eq!(unreadable.next().await, next);
        // The object was replaced or deleted.
        unreadable.forget(&next.metadata);
        unreadable.report_again(&next);
        assert!(unreadable.next().now_or_never().is_none());
    }

    #[test]
    fn a_list_forgets_who_is_not_in_it_and_the_number_is_bounded() {
        let unreadable = UnreadableObjects::default();
        let record = |name: &str| {
            let Guarded::Unreadable(object) = strange(name, 1) else {
                unreachable!()
            };
            unreadable.record(*object);
        };
        for index in 0..2 * MOST {
            record(&format!("o{index}"));
        }
        assert_eq!(unreadable.all().len(), MOST);
        unreadable.begin_list();
        record("o1");
        unreadable.end_list();
        assert_eq!(unreadable.all().len(), 1);
    }

    fn whole(name: &str) -> Guarded<PeerRelay> {
        let mut relay = crate::operator::fixtures::relay(json!({}));
        relay.metadata.name = Some(name.into());
        Guarded::Whole(relay)
    }

    fn strange(name: &str, generation: i64) -> Guarded<PeerRelay> {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("relays".into()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        Guarded::Unreadable(Box::new(Unreadable {
            metadata,
            status: None,
            error: "odd".into(),
        }))
    }
}
