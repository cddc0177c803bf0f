//! `/metrics` of the operator.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{Encoder, GaugeVec, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use super::apply::Changes;

/// Failures in a row, by namespace and name of the PeerRelay.
type Failures = HashMap<(Option<String>, String), u32>;

/// Counters of the operator; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounter,
    failures: IntCounter,
    applied: IntCounter,
    pruned: IntCounter,
    leader: IntGauge,
    failing: Arc<Mutex<Failures>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("constant names are valid");
            registry
                .register(Box::new(counter.clone()))
                .expect("every name is used once");
            counter
        };
        let reconciles = counter(
            "peerrelay_operator_reconcile_total",
            "Reconciliations that ended, well or not.",
        );
        let failures = counter(
            "peerrelay_operator_reconcile_errors_total",
            "Reconciliations that failed and are tried again.",
        );
        let applied = counter(
            "peerrelay_operator_applied_total",
            "Objects created or changed.",
        );
        let pruned = counter("peerrelay_operator_pruned_total", "Objects removed.");
        let leader = IntGauge::new("peerrelay_operator_leader", "Whether this replica leads.")
            .expect("constant names are valid");
        registry
            .register(Box::new(leader.clone()))
            .expect("every name is used once");
        let opts = Opts::new(
            "peerrelay_build_info",
            "Version that runs; the value is always 1.",
        );
        let info = GaugeVec::new(opts, &["version"]).expect("constant names are valid");
        info.with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        registry
            .register(Box::new(info))
            .expect("every name is used once");
        Self {
            registry,
            reconciles,
            failures,
            applied,
            pruned,
            leader,
            failing: Arc::default(),
        }
    }
}

impl Metrics {
    /// Counts what a reconciliation changed.
    pub fn count_changes(&self, changes: Changes) {
        self.applied.inc_by(changes.applied as u64);
        self.pruned.inc_by(changes.pruned as u64);
    }

    /// Counts a reconciliation that ended well.
    pub fn count_success(&self, name: &str, namespace: Option<String>) {
        self.reconciles.inc();
        self.failing().remove(&(namespace, name.to_owned()));
    }

    /// Counts one that failed, and returns how many in a row did before.
    pub fn count_failure(&self, name: &str, namespace: Option<String>) -> u32 {
        self.reconciles.inc();
        self.failures.inc();
        let mut failing = self.failing();
        let failures = failing.entry((namespace, name.to_owned())).or_default();
        *failures += 1;
        *failures - 1
    }

    /// Says that this replica leads.
    pub fn lead(&self) {
        self.leader.set(1);
    }

    /// Renders everything in Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("metrics are complete and memory takes all bytes");
        String::from_utf8(text).expect("the text format is UTF-8")
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
