//! Memory of the DERP regions that failed.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{backoff::Backoff, relay::tailnet::wire::DerpMap};

/// Times for which a region that failed is left out while another one can be used.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(5), Duration::from_secs(60)).with_jitter(0.75..=1.25);

/// Regions that failed, and the times at which they may be tried again.
#[derive(Debug)]
pub(crate) struct RegionHealth {
    backoff: Backoff,
    failed: BTreeMap<u32, Failed>,
}

#[derive(Debug)]
struct Failed {
    failures: u32,
    retry_at: Instant,
}

impl Default for RegionHealth {
    fn default() -> Self {
        Self::new(BACKOFF)
    }
}

impl RegionHealth {
    /// Returns a memory without failures. `backoff` has the times for which regions are left out.
    pub(super) const fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            failed: BTreeMap::new(),
        }
    }

    /// Records a failure of `region`. Returns whether the region worked before.
    pub(super) fn record_failure(&mut self, region: u32, now: Instant) -> bool {
        let failed = self.failed.entry(region).or_insert(Failed {
            failures: 0,
            retry_at: now,
        });
        failed.failures = failed.failures.saturating_add(1);
        failed.retry_at = now + self.backoff.after(failed.failures);
        failed.failures == 1
    }

    /// Records that `region` works. Returns whether it had failed before.
    pub(super) fn record_success(&mut self, region: u32) -> bool {
        self.failed.remove(&region).is_some()
    }

    /// Returns whether `region` may be used: it works, or failed long enough ago.
    pub(super) fn is_usable(&self, region: u32, now: Instant) -> bool {
        self.failed
            .get(&region)
            .is_none_or(|failed| failed.retry_at <= now)
    }

    /// Forgets failures of regions whose servers `after` does not have as `before` had them.
    pub(super) fn follow(&mut self, before: &DerpMap, after: &DerpMap) {
        self.failed.retain(|region, _| {
            after.regions.contains_key(region)
                && before.regions.get(region) == after.regions.get(region)
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    fn health() -> RegionHealth {
        RegionHealth::new(Backoff::new(
            Duration::from_secs(5),
            Duration::from_secs(60),
        ))
    }

    #[test]
    fn failed_region_is_left_out_for_longer_after_each_failure() {
        let (mut health, start) = (health(), Instant::now());
        let seconds = |count| start + Duration::from_secs(count);
        assert!(health.is_usable(1, start));
        assert!(health.record_failure(1, start), "it worked before");
        assert!(!health.is_usable(1, seconds(4)) && health.is_usable(1, seconds(5)));
        assert!(health.is_usable(2, start), "another region");
        assert!(!health.record_failure(1, seconds(5)), "the same failure");
        assert!(!health.is_usable(1, seconds(14)) && health.is_usable(1, seconds(15)));
        for _ in 0..20 {
            health.record_failure(1, seconds(15));
        }
        assert!(!health.is_usable(1, seconds(74)) && health.is_usable(1, seconds(75)));
    }

    #[test]
    fn region_that_works_again_has_no_past() {
        let (mut health, start) = (health(), Instant::now());
        assert!(!health.record_success(1));
        health.record_failure(1, start);
        assert!(health.record_success(1));
        assert!(health.is_usable(1, start));
        assert!(health.record_failure(1, start));
    }

    #[test]
    fn region_with_other_servers_is_another_region() {
        let map = |host: &str| -> DerpMap {
            let regions = json!({"1": {"Nodes": [{"HostName": host}]}, "2": {"Nodes": []}});
            serde_json::from_value(json!({"Regions": regions})).unwrap()
        };
        let (mut health, start) = (health(), Instant::now());
        for region in 1..=3 {
            health.record_failure(region, start);
        }
        health.follow(&map("a.test"), &map("b.test"));
        assert!(health.is_usable(1, start), "its server has another name");
        assert!(!health.is_usable(2, start), "it is the same");
        assert!(health.is_usable(3, start), "it is not in the map");
    }
}
