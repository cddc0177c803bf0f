//! A filter for events of a watch: it passes only changes of facts that matter.

use std::collections::{HashMap, HashSet};

use kube::Resource;
use kube_runtime::{reflector::ObjectRef, watcher::Event};

/// The facts about each object as the last event stated them.
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

    /// Records `event`; returns whether an object has come, gone or changed.
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
            // Objects that went while nobody watched are not named.
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
