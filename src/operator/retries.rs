//! The time of the next request to the API of a tailnet, after requests that failed. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::credential::CredentialError;
use crate::backoff::Backoff;

/// Waits after failures in a row. The longest wait limits the delay after the cause is gone.
const AFTER_FAILURE: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(60));

/// Failures in a row with one credential.
#[derive(Debug, Default)]
pub struct Retries {
    failures: u32,
    next: Option<Instant>,
}

impl Retries {
    /// Records a failure. The API may ask for a longer wait.
    pub fn failed(&mut self, error: &CredentialError, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let asked = match error {
            CredentialError::Api(error) => error.retry_after().unwrap_or_default(),
            _ => Duration::ZERO,
        };
        self.next = Some(now + AFTER_FAILURE.after(self.failures).max(asked));
    }

    /// Forgets the failures.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// The time of the next attempt. `None` if the last one did not fail.
    pub const fn next(&self) -> Option<Instant> {
        self.next
    }
}
