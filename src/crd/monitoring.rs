//! Metrics of the relays, and what scrapes and judges them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::config::{DEFAULT_METRICS_PORT, DEFAULT_PORT};

/// Metrics of the relays.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(!has(self.interval) || duration(self.interval) > duration('0s')) && (!has(self.scrapeTimeout) || duration(self.scrapeTimeout) > duration('0s'))").message("monitoring.interval and monitoring.scrapeTimeout must be more than 0s, such as 30s: remove them to use what your Prometheus has"))]
#[x_kube(validation = Rule::new("!has(self.interval) || !has(self.scrapeTimeout) || duration(self.scrapeTimeout) <= duration(self.interval)").message("monitoring.scrapeTimeout must not be longer than monitoring.interval: lower it, or raise the interval"))]
pub struct Monitoring {
    /// TCP port of the relays' metrics. /metrics, /healthz and /readyz are on the node's loopback
    /// address; /metrics alone is on the node's own address too, unless serviceMonitor is Disabled.
    /// When empty: 9440 with the UDP port 40000, else the number after the UDP port, and 20000 more
    /// if that one is below 1024. So PeerRelays with different ports can share nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// A ServiceMonitor of prometheus-operator: `Auto` when the cluster knows that kind. The metrics
    /// Service has `prometheus.io` annotations unless there is a ServiceMonitor that is `Enabled`
    /// or has labels: one without labels is selected by few Prometheus servers.
    #[serde(default)]
    pub service_monitor: Switch,
    /// A PrometheusRule with alerts: `Auto` when the cluster knows that kind.
    #[serde(default)]
    pub prometheus_rule: Switch,
    /// A ConfigMap with a dashboard of this PeerRelay alone, for Grafana's sidecar, label
    /// `grafana_dashboard: "1"`: only when `Enabled`, as the chart has a dashboard that shows all
    /// PeerRelays.
    #[serde(default)]
    pub dashboards: Switch,
    /// Further labels of the ServiceMonitor and the PrometheusRule, by which your Prometheus selects
    /// them: `release: NAME` for kube-prometheus-stack. They are added to the operator's defaults for
    /// all PeerRelays; labels that the operator needs itself win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    pub labels: BTreeMap<String, String>,
    /// Time between two scrapes, such as `30s`; when empty, the operator's default for all
    /// PeerRelays, or that of your Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub interval: Option<String>,
    /// Time after which a scrape has failed, such as `10s`, at most `interval`; when empty, the
    /// operator's default for all PeerRelays, or that of your Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub scrape_timeout: Option<String>,
    /// Changes of the labels of targets, after the operator's own (`node`, `peer_relay`,
    /// `relay_region`) and its defaults for all PeerRelays. Alerts and dashboard select by
    /// `namespace` and `peer_relay`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub relabelings: Vec<Relabeling>,
    /// Changes of scraped series before they are stored, after the operator's defaults for all
    /// PeerRelays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub metric_relabelings: Vec<Relabeling>,
}

/// Relabeling rule, as in a ServiceMonitor.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Relabeling {
    /// Labels whose values are joined and matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(max = 128), regex(pattern = "^[a-zA-Z_][a-zA-Z0-9_]*$"))
    )]
    pub source_labels: Vec<String>,
    /// Text between joined values; `;` when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub separator: Option<String>,
    /// Label that is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub target_label: Option<String>,
    /// Regular expression that the joined values, or the names of labels, must match; everything
    /// matches when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub regex: Option<String>,
    /// Modulus of the hash of the joined values, for the action `hashmod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub modulus: Option<u32>,
    /// Value that is written; `$1` when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replacement: Option<String>,
    /// What is done with a match; `replace` when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "action")]
    pub action: Option<String>,
}

/// Durations that Prometheus and CEL both read.
pub const DURATION: &str = "^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?([0-9]{1,6}ms)?$";
/// Actions of a relabeling rule; prometheus-operator also takes them with capitals.
pub const ACTIONS: [&str; 22] = [
    "replace",
    "Replace",
    "keep",
    "Keep",
    "drop",
    "Drop",
    "hashmod",
    "HashMod",
    "labelmap",
    "LabelMap",
    "labeldrop",
    "LabelDrop",
    "labelkeep",
    "LabelKeep",
    "lowercase",
    "Lowercase",
    "uppercase",
    "Uppercase",
    "keepequal",
    "KeepEqual",
    "dropequal",
    "DropEqual",
];
/// Values of labels in Kubernetes.
pub const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

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
            port: None,
            service_monitor: Switch::Auto,
            prometheus_rule: Switch::Auto,
            dashboards: Switch::Auto,
            labels: BTreeMap::new(),
            interval: None,
            scrape_timeout: None,
            relabelings: Vec::new(),
            metric_relabelings: Vec::new(),
        }
    }
}

fn label_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

fn action(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ACTIONS})
}

impl Monitoring {
    /// The TCP port of the metrics of relays with this UDP port. Different UDP ports have different
    /// ones; one below 1024 would need a capability.
    pub fn port_beside(&self, udp: u16) -> u16 {
        let derived = match udp {
            DEFAULT_PORT => DEFAULT_METRICS_PORT,
            0..=1_022 => udp + 20_001,
            u16::MAX => 20_000,
            _ => udp + 1,
        };
        self.port.unwrap_or(derived)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn metrics_ports_are_unprivileged_and_differ_from_the_udp_port() {
        let derived = |udp| Monitoring::default().port_beside(udp);
        assert_eq!((derived(40_000), derived(443)), (9_440, 20_444));
        for udp in 1..=u16::MAX {
            assert!(derived(udp) >= 1_024 && derived(udp) != udp, "{udp}");
        }
        let usual: BTreeSet<_> = (39_000..=42_000).map(derived).collect();
        assert_eq!(usual.len(), 3_001);
    }
}
