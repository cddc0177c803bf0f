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
    running: Option<Running>,
    /// `None` if the PeerRelay was forgotten, and its task still runs.
    state: Option<S>,
}

/// A task that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    /// Its results are recorded.
    Current,
    /// The PeerRelay was forgotten after the start of the task, so its results are of no use. The next
    /// task waits for its end: two tasks at once would do the same work twice.
    Forgotten,
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
        self.read(relay, |_| ()).is_some()
    }

    /// Reads the state of a PeerRelay, if it has one.
    pub fn read<T>(&self, relay: &ObjectRef<PeerRelay>, read: impl FnOnce(&S) -> T) -> Option<T> {
        let entries = self.lock();
        let state = entries.get(relay)?.state.as_ref();
        state.map(read)
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
        let state = entry.state.get_or_insert_default();
        settle(state);
        if entry.running.is_some() {
            return Due::After(None);
        }
        let due = due(state);
        entry.running = matches!(due, Due::Now(_)).then_some(Running::Current);
        due
    }

    /// Ends the task of the PeerRelay with this UID: `finish` records its results, and another pass follows.
    pub fn end(&self, relay: ObjectRef<PeerRelay>, uid: &str, finish: impl FnOnce(&mut S)) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&relay)
            && entry.uid == uid
        {
            let ended = entry.running.take();
            match &mut entry.state {
                Some(state) if ended == Some(Running::Current) => finish(state),
                Some(_) => {}
                None => drop(entries.remove(&relay)),
            }
        }
        drop(entries);
        // It fails only if the operator ends.
        self.ended.unbounded_send(relay).ok();
    }

    /// Forgets a PeerRelay, and the results of its task if one runs.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        let mut entries = self.lock();
        match entries.get_mut(relay) {
            Some(entry) if entry.running.is_some() => {
                entry.running = Some(Running::Forgotten);
                entry.state = None;
            }
            _ => drop(entries.remove(relay)),
        }
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

    #[test]
    fn forgotten_task_has_no_successor_until_it_ends() {
        let (tasks, _ended) = Tasks::<u32>::new();
        let relay = ObjectRef::new("edge").within("relays");
        let next = || tasks.next(&relay, "a", |_| (), |state| Due::Now(*state));
        let end = |result| tasks.end(relay.clone(), "a", |state| *state = result);
        assert_eq!(next(), Due::Now(0));
        tasks.forget(&relay);
        assert!(!tasks.has(&relay));
        assert_eq!(tasks.read(&relay, |state| *state), None);
        assert_eq!(next(), Due::After(None), "the forgotten task runs");
        end(1);
        assert_eq!(next(), Due::Now(0), "its result is forgotten too");
        tasks.forget(&relay);
        end(2);
        assert!(tasks.lock().is_empty(), "nothing is left of it");
        assert_eq!(next(), Due::Now(0));
    }
}
