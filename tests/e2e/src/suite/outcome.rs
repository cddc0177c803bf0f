//! The outcome of a scenario or of a closing check.

use std::{fmt, time::Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Result of one scenario or closing check.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Outcome {
    /// The sentence that was to hold.
    pub(super) name: String,
    /// True if the sentence held.
    pub(super) passed: bool,
    /// The summary, or the failure.
    text: String,
    /// Whole seconds that it took.
    seconds: u64,
    /// The state of the cluster after a failure; may be empty.
    pub(super) evidence: String,
}

impl Outcome {
    /// Runs what is to show that a sentence holds.
    pub(super) fn of(name: &str, run: impl FnOnce() -> Result<String>) -> Self {
        let start = Instant::now();
        let (passed, text) = match run() {
            Ok(summary) => (true, summary),
            Err(error) => (false, format!("{error:#}")),
        };
        Self {
            name: name.to_owned(),
            passed,
            text,
            seconds: start.elapsed().as_secs(),
            evidence: String::new(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            text,
            seconds,
            ..
        } = self;
        let verdict = if self.passed { "ok" } else { "FAILED" };
        write!(f, "{verdict} {name} ({seconds} s): {text}")
    }
}
