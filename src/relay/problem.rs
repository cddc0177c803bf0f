//! Problems of a relay, each with a reason and a remedy.

use std::fmt;

use crate::crd::relay_reason::RelayReason;

/// Obstacle that keeps the relay from being ready, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Reason that the `RelayNode` shows.
    pub reason: RelayReason,
    /// One sentence that names the fix; it holds no secret and no client address.
    pub message: String,
}

impl Problem {
    /// Makes a problem.
    pub fn new(reason: RelayReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}
