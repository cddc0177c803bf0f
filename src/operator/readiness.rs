//! Readiness of this replica for `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Time after a failure for which a watch counts as not running: twice the longest pause between
/// two attempts.
const FAILING: Duration = Duration::from_secs(20);
/// Longest reason that is repeated, in characters.
const LONGEST: usize = 400;

/// State of this replica and the reason why it waits. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    part: Part,
    /// Last failure of each watch.
    failures: BTreeMap<String, (Instant, String)>,
}

/// Role of a replica.
#[derive(Debug)]
enum Part {
    /// The replica cannot start yet.
    Waits(String),
    /// Another replica leads. This replica has read the lease, and the result is valid for a
    /// limited time.
    StandsBy(Instant, Duration),
    /// The replica leads, but has not read the whole cluster yet.
    Begins,
    /// The replica leads and reconciles PeerRelays.
    Acts,
}

impl Default for Readiness {
    fn default() -> Self {
        let shared = Shared {
            part: Part::Waits("starting".into()),
            failures: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }
}

impl Readiness {
    /// Records that the replica cannot start, with the reason.
    pub fn waits_for(&self, reason: String) {
        self.shared().part = Part::Waits(shortened(&reason));
    }

    /// Records that the lease was read and that another replica leads. The lease must be read again
    /// within `worth`.
    pub fn stands_by(&self, worth: Duration) {
        self.shared().part = Part::StandsBy(Instant::now(), worth);
    }

    /// Records that the replica begins to watch the cluster.
    pub fn begins(&self) {
        self.shared().part = Part::Begins;
    }

    /// Records that every watch has read the whole cluster, including watches that had failed
    /// before.
    pub fn acts(&self) {
        let mut shared = self.shared();
        shared.failures.clear();
        shared.part = Part::Acts;
    }

    /// Records that the watch of `what` has failed. It will be retried.
    pub fn failed(&self, what: &str, reason: &str) {
        let failure = (Instant::now(), shortened(reason));
        self.shared().failures.insert(what.to_owned(), failure);
    }

    /// Names in one line what is missing.
    ///
    /// # Errors
    /// The replica is not ready.
    pub fn check(&self) -> Result<(), String> {
        let shared = self.shared();
        let now = Instant::now();
        let failing = shared
            .failures
            .iter()
            .filter(|(_, (at, _))| now - *at < FAILING)
            .map(|(what, (_, reason))| format!("the watch of {what} fails: {reason}"))
            .next();
        let missing = match &shared.part {
            Part::Waits(reason) => Some(reason.clone()),
            Part::StandsBy(at, worth) if now - *at < *worth => None,
            Part::StandsBy(..) => Some("the lease cannot be read".to_owned()),
            Part::Begins => failing.or(Some("not all watches have begun".to_owned())),
            Part::Acts => failing,
        };
        missing.map_or(Ok(()), |missing| Err(format!("not ready: {missing}")))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_ready_when_all_its_watches_run() {
        let readiness = Readiness::default();
        let missing = || readiness.check().err().unwrap_or_default();
        assert!(missing().contains("starting"));
        readiness.begins();
        assert!(missing().contains("not all watches"), "{}", missing());
        readiness.failed("DaemonSet", "daemonsets is\nforbidden");
        assert!(missing().contains("DaemonSet fails: daemonsets is forbidden"));
        readiness.acts();
        assert_eq!(missing(), "");
        readiness.failed("Node", "lost");
        assert!(missing().contains("Node fails: lost"), "{}", missing());
        tokio::time::advance(FAILING).await;
        assert_eq!(missing(), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_waits_is_ready_as_long_as_it_reads_the_lease() {
        let readiness = Readiness::default();
        readiness.stands_by(LEASE);
        assert_eq!(readiness.check(), Ok(()));
        tokio::time::advance(LEASE).await;
        assert!(readiness.check().is_err());
        readiness.stands_by(LEASE);
        assert_eq!(readiness.check(), Ok(()));
    }
}
