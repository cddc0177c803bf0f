//! Filter for events of a watch. It passes only relevant changes.

use std::collections::{HashMap, HashSet};

use kube::Resource;
use kube_runtime::{reflector::ObjectRef, watcher::Event};

/// Relevant facts about each object, from its last event.
pub(super) struct ChangeFilter<K: Resource<DynamicType = ()>, T> {
    facts: fn(&K) -> T,
    facts_of: HashMap<ObjectRef<K>, T>,
    listed: HashSet<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()>, T: PartialEq> ChangeFilter<K, T> {
    /// Returns a filter without objects. Only `facts` of an object matter.
    pub(super) fn new(facts: fn(&K) -> T) -> Self {
        Self {
            facts,
            facts_of: HashMap::new(),
            listed: HashSet::new(),
        }
    }

    /// Records an event. Returns whether an object was added, removed or changed.
    pub(super) fn record(&mut self, event: &Event<K>) -> bool {
        match event {
            Event::Apply(object) => self.changed(object),
            Event::InitApply(object) => {
                self.listed.insert(ObjectRef::from_obj(object));
                self.changed(object)
            }
            Event::Delete(object) => {
                self.facts_of.remove(&ObjectRef::from_obj(object));
                true
            }
            Event::Init => {
                self.listed.clear();
                false
            }
            // A new list does not name objects that were removed while the watch was down.
            Event::InitDone => {
                let before = self.facts_of.len();
                self.facts_of.retain(|key, _| self.listed.contains(key));
                self.facts_of.len() < before
            }
        }
    }

    /// The number of objects.
    pub(super) fn len(&self) -> usize {
        self.facts_of.len()
    }

    fn changed(&mut self, object: &K) -> bool {
        let now = (self.facts)(object);
        let key = ObjectRef::from_obj(object);
        let same = self.facts_of.get(&key) == Some(&now);
        self.facts_of.insert(key, now);
        !same
    }
}
