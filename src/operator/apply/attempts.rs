//! What came of earlier attempts to apply objects, so that one that is refused is tried again
//! seldom, and one that the API server writes in another way is not sent again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use kube_runtime::reflector::ObjectRef;
use tokio::time::Instant;

use crate::{
    crd::PeerRelay,
    operator::refusal::{Refusal, Subject},
};

/// Wait after the first refusal of an object; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait: within it, an object follows after the cause of its refusal is gone.
const LONGEST: Duration = Duration::from_secs(30);

/// The attempts for all PeerRelays.
#[derive(Debug, Default)]
pub struct Attempts {
    by_relay: Mutex<HashMap<ObjectRef<PeerRelay>, OfRelay>>,
}

impl Attempts {
    /// Takes out what is known about a PeerRelay; nothing if it was another one of that name.
    pub(super) fn take(&self, relay: &ObjectRef<PeerRelay>, uid: &str) -> OfRelay {
        let known = self.lock().remove(relay);
        known
            .filter(|known| known.uid == uid)
            .unwrap_or_else(|| OfRelay {
                uid: uid.to_owned(),
                ..OfRelay::default()
            })
    }

    /// Keeps it for the next time.
    pub(super) fn keep(&self, relay: ObjectRef<PeerRelay>, known: OfRelay) {
        if !known.objects.is_empty() {
            self.lock().insert(relay, known);
        }
    }

    /// Forgets a PeerRelay that was deleted.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.lock().remove(relay);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<PeerRelay>, OfRelay>> {
        self.by_relay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts for the objects of one PeerRelay.
#[derive(Debug, Default)]
pub(super) struct OfRelay {
    uid: String,
    objects: HashMap<Subject, Attempt>,
}

/// The last attempt for an object, as it was wanted then.
#[derive(Debug)]
struct Attempt {
    /// Checksum of the object.
    sum: String,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// The API server keeps it with this difference.
    Kept(u64),
    Refused {
        refusal: Refusal,
        /// In a row.
        failures: u32,
        next: Instant,
    },
}

impl OfRelay {
    /// The refusal of the same object, while it is too early to try again.
    pub(super) fn waiting(&self, subject: &Subject, sum: &str) -> Option<Refusal> {
        let attempt = self.objects.get(subject).filter(|a| a.sum == sum)?;
        match &attempt.outcome {
            Outcome::Refused { refusal, next, .. } if Instant::now() < *next => {
                Some(refusal.clone())
            }
            _ => None,
        }
    }

    /// Whether the API server keeps the object with this difference.
    pub(super) fn is_kept(&self, subject: &Subject, sum: &str, difference: u64) -> bool {
        let attempt = self.objects.get(subject).filter(|a| a.sum == sum);
        attempt.is_some_and(|a| matches!(a.outcome, Outcome::Kept(kept) if kept == difference))
    }

    /// Notes that an object was applied, and with what difference it is kept.
    pub(super) fn applied(&mut self, subject: &Subject, sum: &str, difference: Option<u64>) {
        match difference {
            None => drop(self.objects.remove(subject)),
            Some(difference) => {
                let (sum, outcome) = (sum.to_owned(), Outcome::Kept(difference));
                self.objects
                    .insert(subject.clone(), Attempt { sum, outcome });
            }
        }
    }

    /// Notes that an object is as it should be.
    pub(super) fn settled(&mut self, subject: &Subject) {
        let refused = |attempt: &Attempt| matches!(attempt.outcome, Outcome::Refused { .. });
        if self.objects.get(subject).is_some_and(refused) {
            self.objects.remove(subject);
        }
    }

    /// Notes a refusal.
    pub(super) fn refused(&mut self, sum: &str, refusal: &Refusal) {
        let before = self.objects.get(&refusal.subject).filter(|a| a.sum == sum);
        let failures = match before.map(|attempt| &attempt.outcome) {
            Some(Outcome::Refused { failures, .. }) => failures.saturating_add(1),
            _ => 1,
        };
        let pause = FIRST
            .saturating_mul(1 << (failures - 1).min(10))
            .min(LONGEST);
        let outcome = Outcome::Refused {
            refusal: refusal.clone(),
            failures,
            next: Instant::now() + pause.max(refusal.retry_after),
        };
        let sum = sum.to_owned();
        self.objects
            .insert(refusal.subject.clone(), Attempt { sum, outcome });
    }

    /// Forgets objects that were not looked at.
    pub(super) fn retain(&mut self, looked_at: impl Fn(&Subject) -> bool) {
        self.objects.retain(|subject, _| looked_at(subject));
    }

    /// How often in a row an object was refused.
    pub(super) fn failures(&self, subject: &Subject) -> u32 {
        match self.objects.get(subject).map(|attempt| &attempt.outcome) {
            Some(Outcome::Refused { failures, .. }) => *failures,
            _ => 0,
        }
    }

    /// How long until the first object is to be tried again.
    pub(super) fn pause(&self) -> Option<Duration> {
        let next = self.objects.values().filter_map(|a| match a.outcome {
            Outcome::Refused { next, .. } => Some(next),
            Outcome::Kept(_) => None,
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
        let mut known = OfRelay::default();
        let refusal = refusal();
        let mut waited = Vec::new();
        for _ in 0..7 {
            known.refused("1", &refusal);
            let pause = known.pause().unwrap();
            assert_eq!(known.waiting(&refusal.subject, "1"), Some(refusal.clone()));
            tokio::time::advance(pause).await;
            assert_eq!(known.waiting(&refusal.subject, "1"), None);
            waited.push(pause.as_secs());
        }
        assert_eq!(waited, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(known.failures(&refusal.subject), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn another_object_or_success_ends_the_pause() {
        let mut known = OfRelay::default();
        let refusal = refusal();
        known.refused("1", &refusal);
        known.refused("1", &refusal);
        assert_eq!(known.waiting(&refusal.subject, "2"), None);
        known.refused("2", &refusal);
        assert_eq!(known.failures(&refusal.subject), 1);
        known.settled(&refusal.subject);
        assert_eq!(known.pause(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_is_asked_for_is_kept() {
        let mut known = OfRelay::default();
        let mut refusal = refusal();
        refusal.retry_after = Duration::from_secs(50);
        known.refused("1", &refusal);
        assert_eq!(known.pause(), Some(Duration::from_secs(50)));
    }

    #[test]
    fn a_difference_is_kept_for_the_same_object_only() {
        let mut known = OfRelay::default();
        let subject = refusal().subject;
        known.applied(&subject, "1", Some(7));
        known.settled(&subject);
        assert!(known.is_kept(&subject, "1", 7));
        assert!(!known.is_kept(&subject, "2", 7));
        assert!(!known.is_kept(&subject, "1", 8));
        known.applied(&subject, "1", None);
        assert!(!known.is_kept(&subject, "1", 7));
    }

    #[test]
    fn what_is_known_ends_with_the_peer_relay() {
        let attempts = Attempts::default();
        let relay = ObjectRef::<PeerRelay>::new("edge").within("relays");
        let subject = refusal().subject;
        let mut known = attempts.take(&relay, "u-1");
        known.applied(&subject, "1", Some(7));
        attempts.keep(relay.clone(), known);
        let known = attempts.take(&relay, "u-1");
        assert!(known.is_kept(&subject, "1", 7));
        attempts.keep(relay.clone(), known);
        assert!(!attempts.take(&relay, "u-2").is_kept(&subject, "1", 7));
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
