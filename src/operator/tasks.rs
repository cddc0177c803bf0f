//! Tasks beside the passes, one at a time for each PeerRelay. The results of a task are for the next pass.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, channel::mpsc};
use kube_runtime::reflector::ObjectRef;

use crate::crd::PeerRelay;

/// The tasks of one kind. Each PeerRelay has a state `S`, which outlives its tasks.
pub struct Tasks<S> {
    entries: Mutex<HashMap<ObjectRef<PeerRelay>, Entry<S>>>,
    /// Receives each PeerRelay whose task has ended.
    ended: mpsc::UnboundedSender<ObjectRef<PeerRelay>>,
}

/// The tasks of one PeerRelay.
#[derive(Default)]
struct Entry<S> {
    /// UID of the PeerRelay: another one of its name has nothing of it.
    uid: String,
    is_running: bool,
    state: S,
}

/// Work for a task, or the time until there may be some.
#[derive(Debug, PartialEq, Eq)]
pub enum Due<W> {
    /// A task is to be started.
    Now(W),
    /// Nothing is to be started before this time, or before another pass.
    After(Option<Duration>),
}

impl<S: Default> Tasks<S> {
    /// Makes an empty set, and the stream of PeerRelays whose tasks have ended.
    pub fn new() -> (
        Self,
        impl Stream<Item = ObjectRef<PeerRelay>> + Send + use<S>,
    ) {
        let (ended, stream) = mpsc::unbounded();
        let entries = Mutex::default();
        (Self { entries, ended }, stream)
    }

    /// Returns whether a PeerRelay has a state.
    pub fn has(&self, relay: &ObjectRef<PeerRelay>) -> bool {
        self.lock().contains_key(relay)
    }

    /// Reads the state of a PeerRelay, if it has one.
    pub fn read<T>(&self, relay: &ObjectRef<PeerRelay>, read: impl FnOnce(&S) -> T) -> Option<T> {
        self.lock().get(relay).map(|entry| read(&entry.state))
    }

    /// Brings the state of the PeerRelay with this UID up to date by `settle`. Unless a task runs, takes its
    /// work from `due`; with work, the caller must start a task, which calls [`Self::end`].
    pub fn next<W>(
        &self,
        relay: &ObjectRef<PeerRelay>,
        uid: &str,
        settle: impl FnOnce(&mut S),
        due: impl FnOnce(&mut S) -> Due<W>,
    ) -> Due<W> {
        let mut entries = self.lock();
        let entry = entries.entry(relay.clone()).or_default();
        if entry.uid != uid {
            *entry = Entry {
                uid: uid.to_owned(),
                ..Entry::default()
            };
        }
        settle(&mut entry.state);
        if entry.is_running {
            return Due::After(None);
        }
        let due = due(&mut entry.state);
        entry.is_running = matches!(due, Due::Now(_));
        due
    }

    /// Ends the task of the PeerRelay with this UID: `finish` records its results, and another pass follows.
    pub fn end(&self, relay: ObjectRef<PeerRelay>, uid: &str, finish: impl FnOnce(&mut S)) {
        if let Some(entry) = self.lock().get_mut(&relay)
            && entry.uid == uid
        {
            entry.is_running = false;
            finish(&mut entry.state);
        }
        // It fails only if the operator ends.
        self.ended.unbounded_send(relay).ok();
    }

    /// Forgets a PeerRelay.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.lock().remove(relay);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<PeerRelay>, Entry<S>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use futures::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn one_task_runs_at_a_time_and_its_results_are_those_of_its_object() {
        let (tasks, mut ended) = Tasks::<u32>::new();
        let relay = ObjectRef::new("edge").within("relays");
        let next = |uid: &str| tasks.next(&relay, uid, |_| (), |state| Due::Now(*state));
        assert_eq!(next("a"), Due::Now(0));
        assert_eq!(next("a"), Due::After(None), "a task runs");
        tasks.end(relay.clone(), "a", |state| *state = 1);
        assert_eq!(ended.next().now_or_never().flatten().unwrap(), relay);
        assert_eq!(tasks.read(&relay, |state| *state), Some(1));
        assert_eq!(next("a"), Due::Now(1));
        assert_eq!(next("b"), Due::Now(0), "another object of the same name");
        tasks.end(relay.clone(), "a", |state| *state = 2);
        assert_eq!(
            next("b"),
            Due::After(None),
            "the task of the former object ended"
        );
        assert_eq!(tasks.read(&relay, |state| *state), Some(0));
        tasks.forget(&relay);
        assert!(!tasks.has(&relay));
    }
}
