//! Metrics of the relays, and what scrapes and judges them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::DEFAULT_METRICS_PORT;

/// Metrics of the relays.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// TCP port of the relays' metrics. /metrics, /healthz and /readyz are on the node's loopback
    /// address; /metrics alone is on the node's own address too, unless serviceMonitor is Disabled.
    #[serde(default = "default_metrics_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// A ServiceMonitor of prometheus-operator: `Auto` when the cluster knows that kind, and
    /// `prometheus.io` annotations on the metrics Service otherwise.
    #[serde(default)]
    pub service_monitor: Switch,
    /// A PrometheusRule with alerts: `Auto` when the cluster knows that kind.
    #[serde(default)]
    pub prometheus_rule: Switch,
    /// A ConfigMap with a dashboard for Grafana's sidecar, label `grafana_dashboard: "1"`: `Auto`
    /// when there is a ServiceMonitor.
    #[serde(default)]
    pub dashboards: Switch,
}

/// Whether something is made.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Switch {
    /// When the cluster has a use for it, also from the moment on when it has.
    #[default]
    Auto,
    /// Always; the PeerRelay waits with an error until the cluster knows the kind.
    Enabled,
    /// Never.
    Disabled,
}

impl Switch {
    /// Whether it is made, if the cluster has a use for it or not.
    pub fn is_on(self, useful: bool) -> bool {
        match self {
            Self::Auto => useful,
            Self::Enabled => true,
            Self::Disabled => false,
        }
    }
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            port: DEFAULT_METRICS_PORT,
            service_monitor: Switch::Auto,
            prometheus_rule: Switch::Auto,
            dashboards: Switch::Auto,
        }
    }
}

fn default_metrics_port() -> u16 {
    DEFAULT_METRICS_PORT
}
