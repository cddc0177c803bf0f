//! Metrics entered into a registry, for the relay and the operator alike.

use prometheus::{IntCounterVec, Opts, Registry, core::Collector};

/// A counter with these labels, entered; names and labels must be valid constants, used once.
pub(crate) fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

/// Any metric, entered under the same terms.
pub(crate) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels are constants that are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("every name is used once");
    metric
}
