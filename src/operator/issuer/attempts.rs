//! The rate at which auth keys are created for one PeerRelay. Pure.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    operator::{credential::CredentialError, plan::WantedKey, retries::Retries},
};

/// Waits after each auth key for the same relay. The first replacement is quick: the answer to the
/// registration may have been lost.
const AFTER_KEY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(600));
/// Time without a further auth key after which a relay begins anew.
const FORGET: Duration = Duration::from_secs(3_600);

/// Earlier attempts to create auth keys.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    retries: Retries,
    /// Number of auth keys of each relay, and the time of the last one.
    created: HashMap<String, (u32, Instant)>,
}

/// The auth keys to create now, and the time until there are more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DueKeys {
    pub(super) now: Vec<WantedKey>,
    pub(super) wait: Option<Duration>,
}

impl Attempts {
    /// Splits auth keys into those to create now and those that must wait.
    pub(super) fn due<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a WantedKey>,
        now: Instant,
    ) -> DueKeys {
        self.created
            .retain(|_, (_, at)| now.duration_since(*at) < FORGET);
        let mut due = DueKeys::default();
        for wanted in wanted {
            let relay = self.created.get(&wanted.relay);
            let relay = relay.map(|(count, at)| *at + AFTER_KEY.after(*count));
            let at = relay.into_iter().chain(self.retries.next()).max();
            match at.filter(|at| *at > now) {
                None => due.now.push(wanted.clone()),
                Some(at) => {
                    let wait = at - now;
                    due.wait = Some(due.wait.map_or(wait, |other| other.min(wait)));
                }
            }
        }
        due
    }

    /// Records an auth key for a relay.
    pub(super) fn created(&mut self, relay: &str, now: Instant) {
        let (count, at) = self.created.entry(relay.to_owned()).or_insert((0, now));
        *count = count.saturating_add(1);
        *at = now;
        self.retries.reset();
    }

    /// Records a failure of the credential. The API may ask for a longer wait.
    pub(super) fn failed(&mut self, error: &CredentialError, now: Instant) {
        self.retries.failed(error, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tailnet_api::ApiError;

    fn wanted(relay: &str) -> WantedKey {
        WantedKey {
            relay: relay.into(),
            node: "n1".into(),
            request: "aa".into(),
            tag: "tag:relay-office".into(),
            ephemeral: false,
        }
    }

    fn waits(attempts: &mut Attempts, relay: &str, now: Instant) -> Option<u64> {
        let wanted = [wanted(relay)];
        let due = attempts.due(wanted.iter(), now);
        assert_eq!(due.now.is_empty(), due.wait.is_some());
        due.wait.map(|wait| wait.as_secs())
    }

    #[test]
    fn a_relay_gets_its_first_key_at_once_and_others_ever_more_seldom() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        for wait in [None, Some(5), Some(10), Some(20), Some(40)] {
            assert_eq!(waits(&mut attempts, "a", now), wait);
            now += Duration::from_secs(wait.unwrap_or_default());
            assert_eq!(waits(&mut attempts, "a", now), None);
            assert_eq!(waits(&mut attempts, "b", now), None, "another relay");
            attempts.created("a", now);
        }
        for _ in 0..9 {
            attempts.created("a", now);
        }
        assert_eq!(waits(&mut attempts, "a", now), Some(600), "bounded");
        assert_eq!(waits(&mut attempts, "a", now + FORGET), None);
        attempts.created("a", now + FORGET);
        assert_eq!(waits(&mut attempts, "a", now + FORGET), Some(5));
    }

    #[test]
    fn failures_hold_up_all_relays_as_long_as_the_api_asks() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let lost = CredentialError::Api(ApiError::Lost { operation: "try" });
        for wait in [2, 4, 8] {
            attempts.failed(&lost, now);
            assert_eq!(waits(&mut attempts, "a", now), Some(wait));
        }
        let limited = ApiError::RateLimited {
            operation: "try",
            retry_after: Some(Duration::from_secs(90)),
        };
        attempts.failed(&limited.into(), now);
        assert_eq!(waits(&mut attempts, "a", now), Some(90));
        attempts.created("b", now);
        assert_eq!(waits(&mut attempts, "a", now), None);
        attempts.failed(&lost, now);
        assert_eq!(waits(&mut attempts, "a", now), Some(2));
    }
}
