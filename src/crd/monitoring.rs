//! Monitoring of the relays: metrics, and the objects that collect and evaluate them.

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
    /// TCP port of the relays' metrics. Relays serve /metrics, /healthz and /readyz on the node's
    /// loopback address. They serve /metrics on the node's own address too, unless serviceMonitor
    /// is Disabled. If empty, the port is 9440 with the UDP port 40000, and the UDP port plus 1
    /// with other ports (plus 20001 if the result would be below 1024). PeerRelays with different
    /// ports can therefore share nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Create a ServiceMonitor for prometheus-operator. With `Auto`, it is created if the cluster
    /// has that kind. Few Prometheus servers select a ServiceMonitor without labels. The metrics
    /// Service therefore also has `prometheus.io` annotations, unless a ServiceMonitor is `Enabled`
    /// or has labels.
    #[serde(default)]
    pub service_monitor: Switch,
    /// Create a PrometheusRule with alerts. With `Auto`, it is created if the cluster has that
    /// kind.
    #[serde(default)]
    pub prometheus_rule: Switch,
    /// Create a ConfigMap with a dashboard of this PeerRelay alone, with the label
    /// `grafana_dashboard: "1"` for the sidecar of Grafana. It is created only if `Enabled`,
    /// because the chart has a dashboard for all PeerRelays.
    #[serde(default)]
    pub dashboards: Switch,
    /// Additional labels of the ServiceMonitor and the PrometheusRule. Your Prometheus selects
    /// these objects by label, kube-prometheus-stack by `release: NAME`. They are added to the
    /// operator's defaults for all PeerRelays. Labels that the operator sets itself take
    /// precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "label_map")]
    pub labels: BTreeMap<String, String>,
    /// Time between two scrapes, such as `30s`. If empty, the operator's default for all PeerRelays
    /// is used, or the default of your Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub interval: Option<String>,
    /// Time after which a scrape fails, such as `10s`. It must not be longer than `interval`. If
    /// empty, the operator's default for all PeerRelays is used, or the default of your Prometheus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16), regex(pattern = DURATION))]
    pub scrape_timeout: Option<String>,
    /// Relabeling rules for targets. They run after the operator's own rules (labels `node`,
    /// `peer_relay`, `relay_region`) and after its defaults for all PeerRelays. The alerts and the
    /// dashboard select by `namespace` and `peer_relay`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub relabelings: Vec<Relabeling>,
    /// Relabeling rules for scraped series, before they are stored. They run after the operator's
    /// defaults for all PeerRelays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub metric_relabelings: Vec<Relabeling>,
}

/// Relabeling rule, with the fields of a ServiceMonitor.
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
    /// Separator between the joined values. If empty, `;` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub separator: Option<String>,
    /// Label to which the result is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub target_label: Option<String>,
    /// Regular expression for the joined values or for the names of labels. If empty, everything
    /// matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub regex: Option<String>,
    /// Modulus of the hash of the joined values, for the action `hashmod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub modulus: Option<u32>,
    /// Value that is written. If empty, `$1` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replacement: Option<String>,
    /// Action for a match. If empty, `replace` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "action")]
    pub action: Option<String>,
}

/// Pattern of durations that Prometheus and CEL both accept.
pub const DURATION: &str = "^([0-9]{1,3}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?([0-9]{1,6}ms)?$";
/// Actions of a relabeling rule. prometheus-operator accepts them with and without capitals.
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
/// Pattern of label values in Kubernetes.
pub const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// Condition on which an object is created.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum Switch {
    /// The object is created if the cluster has its kind, also if the kind is installed later.
    #[default]
    Auto,
    /// The object is always created. The PeerRelay waits with an error until the cluster has the
    /// kind.
    Enabled,
    /// The object is not created.
    Disabled,
}

impl Switch {
    /// Returns whether the object is created. `useful` is the answer for `Auto`.
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
    /// Returns the TCP port of the metrics for relays with this UDP port. Different UDP ports
    /// result in different TCP ports. The port is not below 1024, as binding such a port needs a
    /// capability.
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
