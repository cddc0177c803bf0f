//! Seeds of generated tests.

use std::time::{SystemTime, UNIX_EPOCH};

/// A seed that differs in each run, short enough to be typed again.
pub fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64 % 1_000_000_000)
}
