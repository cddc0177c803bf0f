//! `/metrics` of the operator; names and labels of reconciliations are those of controller-runtime.

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_runtime::reflector::Store;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::{objects::Changes, queue::Queue, requests::Count, stores::guard::UnreadableObjects};
use crate::{
    crd::PeerRelay,
    process_metrics::ProcessMetrics,
    registry::{counter, register},
};

/// Failures in a row, by namespace and name of the PeerRelay.
type Failures = HashMap<(Option<String>, String), u32>;

/// The only controller.
const CONTROLLER: &str = "peerrelay";
/// Bounds of the time of a reconciliation, in seconds.
const SECONDS: [f64; 11] = [
    0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const CONDITION: &str = "peerrelay_operator_condition";

/// Counters of the operator; clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    succeeded: IntCounter,
    failed: IntCounter,
    failures: IntCounter,
    seconds: Histogram,
    workers: IntGauge,
    applied: IntCounter,
    pruned: IntCounter,
    leader: IntGauge,
    requests: IntCounterVec,
    queue: Queue,
    waited: Histogram,
    running: Arc<Mutex<Vec<Instant>>>,
    failing: Arc<Mutex<Failures>>,
    relays: Arc<OnceLock<(Store<PeerRelay>, UnreadableObjects)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        ProcessMetrics::register(&registry);
        let total = counter(
            &registry,
            "peerrelay_operator_reconcile_total",
            "Completed reconciliations, by result.",
            &["controller", "result"],
        );
        let failures = counter(
            &registry,
            "peerrelay_operator_reconcile_errors_total",
            "Reconciliations that failed and will be retried.",
            &["controller"],
        );
        let help = "Duration of a reconciliation.";
        let opts = HistogramOpts::new("peerrelay_operator_reconcile_time_seconds", help);
        let seconds = HistogramVec::new(opts.buckets(SECONDS.into()), &["controller"]);
        let help = "Time that a PeerRelay waited in the queue after a change.";
        let opts = HistogramOpts::new("peerrelay_operator_workqueue_queue_duration_seconds", help);
        let waited = HistogramVec::new(opts.buckets(SECONDS.into()), &["controller"]);
        let workers = Opts::new(
            "peerrelay_operator_active_workers",
            "Reconciliations in progress.",
        );
        let workers = IntGaugeVec::new(workers, &["controller"]);
        let requests = requests(&registry);
        let simple = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let applied = simple(
            "peerrelay_operator_applied_total",
            "Objects created or changed.",
        );
        let pruned = simple("peerrelay_operator_pruned_total", "Objects deleted.");
        let help = "1 if this replica is the leader, otherwise 0.";
        let leader = register(&registry, IntGauge::new("peerrelay_operator_leader", help));
        register_version(&registry);
        Self {
            succeeded: total.with_label_values(&[CONTROLLER, "success"]),
            failed: total.with_label_values(&[CONTROLLER, "error"]),
            failures: failures.with_label_values(&[CONTROLLER]),
            seconds: register(&registry, seconds).with_label_values(&[CONTROLLER]),
            workers: register(&registry, workers).with_label_values(&[CONTROLLER]),
            applied,
            pruned,
            leader,
            requests,
            queue: Queue::default(),
            waited: register(&registry, waited).with_label_values(&[CONTROLLER]),
            registry,
            running: Arc::default(),
            failing: Arc::default(),
            relays: Arc::default(),
        }
    }
}

fn requests(registry: &Registry) -> IntCounterVec {
    let requests = counter(
        registry,
        "peerrelay_operator_api_requests_total",
        "Requests to the API server, by verb and status code.",
        &["verb", "code"],
    );
    // The series exists from the start, because an alert may use it.
    requests.with_label_values(&["GET", "200"]);
    requests
}

fn register_version(registry: &Registry) {
    let help = "Running version; the value is always 1.";
    let info = IntGaugeVec::new(Opts::new("peerrelay_build_info", help), &["version"]);
    let info = register(registry, info);
    info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
}

impl Metrics {
    /// Counts what a reconciliation changed.
    pub fn count_changes(&self, changes: Changes) {
        self.applied.inc_by(changes.applied as u64);
        self.pruned.inc_by(changes.pruned as u64);
    }

    /// Counts a reconciliation that ended well.
    pub fn count_success(&self, name: &str, namespace: Option<String>) {
        self.succeeded.inc();
        self.failing().remove(&(namespace, name.to_owned()));
    }

    /// Counts a failed reconciliation, and returns the number of failures in a row before it.
    pub fn count_failure(&self, name: &str, namespace: Option<String>) -> u32 {
        self.failed.inc();
        self.failures.inc();
        let mut failing = self.failing();
        let failures = failing.entry((namespace, name.to_owned())).or_default();
        *failures += 1;
        *failures - 1
    }

    /// The PeerRelays that wait for their reconciliation.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Removes a PeerRelay from the queue, because its reconciliation begins or it was deleted.
    pub fn begin(&self, name: &str, namespace: Option<&str>) {
        let namespace = namespace.unwrap_or_default();
        if let Some(waited) = self.queue.take(name, namespace, Instant::now()) {
            self.waited.observe(waited.as_secs_f64());
        }
    }

    /// Measures a reconciliation until the returned value is dropped.
    pub fn work(&self) -> Working {
        self.workers.inc();
        let start = Instant::now();
        self.running().push(start);
        Working {
            metrics: self.clone(),
            start,
        }
    }

    /// Counts the requests of a client.
    pub fn requests(&self) -> Count {
        Count(self.requests.clone())
    }

    /// Exports the conditions of these PeerRelays, and of unreadable ones.
    pub fn watch(&self, relays: Store<PeerRelay>, unreadable: UnreadableObjects) {
        // Set once: there is one controller.
        self.relays.set((relays, unreadable)).ok();
    }

    /// Records that this replica is the leader.
    pub fn lead(&self) {
        self.leader.set(1);
    }

    /// Renders everything in Prometheus text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        encoded.expect("metrics are complete and memory takes all bytes");
        let text = String::from_utf8(text).expect("the text format is UTF-8");
        text + &self.queued() + &self.conditions()
    }

    /// Renders the metrics of the queue. They are computed for each scrape, because waiting times
    /// grow.
    fn queued(&self) -> String {
        let now = Instant::now();
        let depth = self.queue.depth(now);
        let longest = self.running().iter().min().copied();
        let longest = longest.map_or(0.0, |start| (now - start).as_secs_f64());
        let families = [
            (
                "workqueue_depth",
                "gauge",
                "PeerRelays in the queue.",
                depth.waiting as f64,
            ),
            (
                "workqueue_adds_total",
                "counter",
                "Additions of a PeerRelay to the queue.",
                depth.added as f64,
            ),
            (
                "workqueue_oldest_seconds",
                "gauge",
                "Longest time that a PeerRelay in the queue has waited.",
                depth.oldest.as_secs_f64(),
            ),
            (
                "workqueue_longest_running_processor_seconds",
                "gauge",
                "Duration so far of the longest reconciliation in progress.",
                longest,
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, value) in families {
            let name = format!("peerrelay_operator_{name}");
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n\
                 {name}{{controller=\"{CONTROLLER}\"}} {value}"
            )
            .expect("memory takes all text");
        }
        text
    }

    /// Renders conditions from the store, so that their series end with their PeerRelay. Names need
    /// no escapes.
    fn conditions(&self) -> String {
        let help = "Conditions of a PeerRelay by type: 1 is True, 0 is False, -1 is Unknown. Labels: \
                    peer_relay, peer_relay_namespace, type.";
        let mut text = format!("# HELP {CONDITION} {help}\n# TYPE {CONDITION} gauge\n");
        let mut write_condition = |metadata: &ObjectMeta, kind: &str, status: &str| {
            let value = match status {
                "True" => 1,
                "False" => 0,
                _ => -1,
            };
            let name = metadata.name.as_deref().unwrap_or_default();
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            writeln!(
                text,
                "{CONDITION}{{peer_relay=\"{name}\",peer_relay_namespace=\"{namespace}\",\
                 type=\"{kind}\"}} {value}"
            )
            .expect("memory takes all text");
        };
        let Some((relays, unreadable)) = self.relays.get() else {
            return text;
        };
        for relay in relays.state() {
            for condition in relay.status.iter().flat_map(|status| &status.conditions) {
                write_condition(&relay.metadata, &condition.type_, &condition.status);
            }
        }
        for object in unreadable.all() {
            write_condition(&object.metadata, "Ready", "False");
            write_condition(&object.metadata, "Stalled", "True");
        }
        text
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Failures> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reconciliation in progress.
pub struct Working {
    metrics: Metrics,
    start: Instant,
}

impl Drop for Working {
    fn drop(&mut self) {
        self.metrics.workers.dec();
        let mut running = self.metrics.running();
        if let Some(at) = running.iter().position(|start| *start == self.start) {
            running.swap_remove(at);
        }
        drop(running);
        let seconds = self.start.elapsed().as_secs_f64();
        self.metrics.seconds.observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use kube_runtime::{reflector, watcher::Event};
    use serde_json::json;

    use super::*;
    use crate::operator::fixtures;

    #[test]
    fn conditions_come_and_go_with_their_relay() {
        let metrics = Metrics::default();
        let (store, mut writer) = reflector::store();
        metrics.watch(store, UnreadableObjects::default());
        let mut relay = fixtures::relay(json!({}));
        let condition = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "R", "message": "",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let status = json!({"conditions": [
            condition("Ready", "True"), condition("WithinQuota", "False")]});
        relay.status = serde_json::from_value(status).ok();
        writer.apply_watcher_event(&Event::Apply(relay.clone()));
        let line = "{peer_relay=\"edge\",peer_relay_namespace=\"relays\",type=\"WithinQuota\"} 0";
        assert!(metrics.render().contains(line), "{}", metrics.render());
        writer.apply_watcher_event(&Event::Delete(relay));
        assert!(!metrics.render().contains("edge"));
    }

    #[test]
    fn waiting_and_working_are_measured_while_they_go_on() {
        let metrics = Metrics::default();
        let edge = reflector::ObjectRef::new("edge").within("relays");
        let long_ago = Instant::now() - std::time::Duration::from_secs(60);
        metrics.queue().add(&edge, long_ago);
        let seconds = |name: &str| -> f64 {
            let text = metrics.render();
            let line = format!("peerrelay_operator_workqueue_{name}{{controller=\"peerrelay\"}} ");
            let value = text.lines().find_map(|l| l.strip_prefix(&*line));
            value.and_then(|value| value.parse().ok()).unwrap_or(-1.0)
        };
        assert!(seconds("depth") == 1.0 && seconds("oldest_seconds") >= 60.0);
        metrics.begin("edge", Some("relays"));
        assert!(seconds("depth") == 0.0 && seconds("oldest_seconds") == 0.0);
        assert!(seconds("queue_duration_seconds_sum") >= 60.0);
        let working = metrics.work();
        let first = seconds("longest_running_processor_seconds");
        assert!(seconds("longest_running_processor_seconds") > first);
        drop(working);
        assert!(seconds("longest_running_processor_seconds") == 0.0);
    }

    #[test]
    fn reconciliations_are_counted_by_result() {
        let metrics = Metrics::default();
        drop(metrics.work());
        metrics.count_success("edge", None);
        assert_eq!(metrics.count_failure("edge", None), 0);
        assert_eq!(metrics.count_failure("edge", None), 1);
        let text = metrics.render();
        for line in [
            "peerrelay_operator_reconcile_total{controller=\"peerrelay\",result=\"error\"} 2",
            "peerrelay_operator_reconcile_total{controller=\"peerrelay\",result=\"success\"} 1",
            "peerrelay_operator_reconcile_time_seconds_count{controller=\"peerrelay\"} 1",
            "peerrelay_operator_active_workers{controller=\"peerrelay\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
