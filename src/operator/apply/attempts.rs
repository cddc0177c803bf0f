//! Results of earlier attempts to apply objects. A refused object is retried with a backoff. An
//! object that the API server stores in another form is not sent again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube_runtime::reflector::ObjectRef;
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    crd::PeerRelay,
    operator::refusal::{Refusal, Subject},
};

/// Backoff after refusals of an object. The longest wait limits the delay after the cause of a
/// refusal is gone.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// The attempts for all PeerRelays.
#[derive(Debug, Default)]
pub struct Attempts {
    by_relay: Mutex<HashMap<ObjectRef<PeerRelay>, RelayAttempts>>,
}

impl Attempts {
    /// Removes and returns the attempts of a PeerRelay. There are none if they belong to another
    /// PeerRelay with the same name.
    pub(super) fn take(&self, relay: &ObjectRef<PeerRelay>, uid: &str) -> RelayAttempts {
        let attempts = self.lock().remove(relay);
        attempts
            .filter(|attempts| attempts.uid == uid)
            .unwrap_or_else(|| RelayAttempts {
                uid: uid.to_owned(),
                ..RelayAttempts::default()
            })
    }

    /// Keeps the attempts of a PeerRelay for its next pass.
    pub(super) fn keep(&self, relay: ObjectRef<PeerRelay>, attempts: RelayAttempts) {
        if !attempts.objects.is_empty() {
            self.lock().insert(relay, attempts);
        }
    }

    /// Forgets a PeerRelay that was deleted.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.lock().remove(relay);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<PeerRelay>, RelayAttempts>> {
        self.by_relay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts for the objects of one PeerRelay.
#[derive(Debug, Default)]
pub(super) struct RelayAttempts {
    uid: String,
    objects: HashMap<Subject, Attempt>,
}

/// Last attempt to apply an object.
#[derive(Debug)]
struct Attempt {
    /// Checksum of the object.
    sum: String,
    result: LastResult,
}

#[derive(Debug)]
enum LastResult {
    /// The API server stores the object with this difference.
    Kept(u64),
    Refused {
        refusal: Refusal,
        /// Number of refusals in a row.
        failures: u32,
        next: Instant,
    },
}

impl RelayAttempts {
    /// Returns the refusal of the same object while the next attempt is not due.
    pub(super) fn waiting(&self, subject: &Subject, sum: &str) -> Option<Refusal> {
        let attempt = self.objects.get(subject).filter(|a| a.sum == sum)?;
        match &attempt.result {
            LastResult::Refused { refusal, next, .. } if Instant::now() < *next => {
                Some(refusal.clone())
            }
            _ => None,
        }
    }

    /// Returns whether the API server stores the object with this difference.
    pub(super) fn is_kept(&self, subject: &Subject, sum: &str, difference: u64) -> bool {
        let attempt = self.objects.get(subject).filter(|a| a.sum == sum);
        attempt.is_some_and(|a| matches!(a.result, LastResult::Kept(kept) if kept == difference))
    }

    /// Records that an object was applied, and the difference with which the API server stores it.
    pub(super) fn applied(&mut self, subject: &Subject, sum: &str, difference: Option<u64>) {
        match difference {
            None => drop(self.objects.remove(subject)),
            Some(difference) => {
                let (sum, result) = (sum.to_owned(), LastResult::Kept(difference));
                self.objects
                    .insert(subject.clone(), Attempt { sum, result });
            }
        }
    }

    /// Records that an object needs no change.
    pub(super) fn settled(&mut self, subject: &Subject) {
        let refused = |attempt: &Attempt| matches!(attempt.result, LastResult::Refused { .. });
        if self.objects.get(subject).is_some_and(refused) {
            self.objects.remove(subject);
        }
    }

    /// Records a refusal.
    pub(super) fn refused(&mut self, sum: &str, refusal: &Refusal) {
        let before = self.objects.get(&refusal.subject).filter(|a| a.sum == sum);
        let failures = match before.map(|attempt| &attempt.result) {
            Some(LastResult::Refused { failures, .. }) => failures.saturating_add(1),
            _ => 1,
        };
        let pause = BACKOFF.after(failures);
        let result = LastResult::Refused {
            refusal: refusal.clone(),
            failures,
            next: Instant::now() + pause.max(refusal.retry_after),
        };
        let sum = sum.to_owned();
        self.objects
            .insert(refusal.subject.clone(), Attempt { sum, result });
    }

    /// Forgets objects that were not visited.
    pub(super) fn retain(&mut self, visited: impl Fn(&Subject) -> bool) {
        self.objects.retain(|subject, _| visited(subject));
    }

    /// The number of times in a row that an object was refused.
    pub(super) fn failures(&self, subject: &Subject) -> u32 {
        match self.objects.get(subject).map(|attempt| &attempt.result) {
            Some(LastResult::Refused { failures, .. }) => *failures,
            _ => 0,
        }
    }

    /// The time until the first object is tried again.
    pub(super) fn pause(&self) -> Option<Duration> {
        let next = self.objects.values().filter_map(|a| match a.result {
            LastResult::Refused { next, .. } => Some(next),
            LastResult::Kept(_) => None,
        });
        let now = Instant::now();
        next.min().map(|next| next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refused_object_is_tried_again_with_growing_pauses() {
        let mut attempts = RelayAttempts::default();
        let refusal = refusal();
        let mut waited = Vec::new();
        for _ in 0..7 {
            attempts.refused("1", &refusal);
            let pause = attempts.pause().unwrap();
            assert_eq!(
                attempts.waiting(&refusal.subject, "1"),
                Some(refusal.clone())
            );
            tokio::time::advance(pause).await;
            assert_eq!(attempts.waiting(&refusal.subject, "1"), None);
            waited.push(pause.as_secs());
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(attempts.failures(&refusal.subject), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn another_object_or_success_ends_the_pause() {
        let mut attempts = RelayAttempts::default();
        let refusal = refusal();
        attempts.refused("1", &refusal);
        attempts.refused("1", &refusal);
        assert_eq!(attempts.waiting(&refusal.subject, "2"), None);
        attempts.refused("2", &refusal);
        assert_eq!(attempts.failures(&refusal.subject), 1);
        attempts.settled(&refusal.subject);
        assert_eq!(attempts.pause(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_is_asked_for_is_kept() {
        let mut attempts = RelayAttempts::default();
        let mut refusal = refusal();
        refusal.retry_after = Duration::from_secs(50);
        attempts.refused("1", &refusal);
        assert_eq!(attempts.pause(), Some(Duration::from_secs(50)));
    }

    #[test]
    fn a_difference_is_kept_for_the_same_object_only() {
        let mut attempts = RelayAttempts::default();
        let subject = refusal().subject;
        attempts.applied(&subject, "1", Some(7));
        attempts.settled(&subject);
        assert!(attempts.is_kept(&subject, "1", 7));
        assert!(!attempts.is_kept(&subject, "2", 7));
        assert!(!attempts.is_kept(&subject, "1", 8));
        attempts.applied(&subject, "1", None);
        assert!(!attempts.is_kept(&subject, "1", 7));
    }

    #[test]
    fn attempts_end_with_the_peer_relay() {
        let all = Attempts::default();
        let relay = ObjectRef::<PeerRelay>::new("edge").within("relays");
        let subject = refusal().subject;
        let mut attempts = all.take(&relay, "u-1");
        attempts.applied(&subject, "1", Some(7));
        all.keep(relay.clone(), attempts);
        let attempts = all.take(&relay, "u-1");
        assert!(attempts.is_kept(&subject, "1", 7));
        all.keep(relay.clone(), attempts);
        assert!(!all.take(&relay, "u-2").is_kept(&subject, "1", 7));
    }

    fn refusal() -> Refusal {
        let subject = Subject {
            kind: "Service".into(),
            name: "edge-office".into(),
            region: Some("office".into()),
        };
        Refusal::name_taken(subject)
    }
}
