//! What `values.yaml` of the chart may say; its JSON schema is made from this.

use std::collections::BTreeMap;

use peerrelay::crd::monitoring::{DURATION, LABEL_VALUE, Relabeling};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value};

/// Where the schema is kept.
pub(crate) const SCHEMA: &str = "charts/peerrelay-operator/values.schema.json";

/// Values of the peerrelay-operator chart
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct ChartValues {
    /// Image of the operator, and of the relays that it starts
    image: Option<Image>,
    /// Secrets with which nodes pull the image
    image_pull_secrets: Option<Vec<BTreeMap<String, String>>>,
    /// Replicas of the operator, of which one acts
    #[schemars(range(min = 1, max = 9))]
    replica_count: Option<u8>,
    /// Custom resource definitions
    crds: Option<Crds>,
    /// Roles
    rbac: Option<Create>,
    /// Identity of the operator
    service_account: Option<ServiceAccount>,
    /// Refuses a relay that writes the RelayNode of another
    admission_policy: Option<Enabled>,
    /// What scrapes and judges the operator
    metrics: Option<Metrics>,
    /// Defaults for all PeerRelays that say nothing else
    relay_defaults: Option<RelayDefaults>,
    /// Log of the operator
    log: Option<Log>,
    /// Resources of the operator
    resources: Option<Map<String, Value>>,
    /// Nodes of the operator
    node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the operator tolerates
    tolerations: Option<Vec<Map<String, Value>>>,
    /// Affinity of the operator; replicas are spread over nodes when empty
    affinity: Option<Map<String, Value>>,
    /// Priority class of the operator
    priority_class_name: Option<String>,
    /// Annotations of the operator's pods
    pod_annotations: Option<BTreeMap<String, String>>,
    /// Labels of the operator's pods
    pod_labels: Option<BTreeMap<String, String>>,
    /// Labels of every object
    common_labels: Option<BTreeMap<String, String>>,
    /// Keeps one replica while nodes are drained
    pod_disruption_budget: Option<Enabled>,
    /// What may reach the operator, and what it may reach
    network_policy: Option<NetworkPolicy>,
    /// Values that a parent chart shares; not used
    global: Option<Map<String, Value>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Image {
    /// Name without tag
    #[schemars(length(min = 1))]
    repository: Option<String>,
    /// The chart's appVersion when empty
    tag: Option<String>,
    /// Wins over the tag
    #[schemars(regex(pattern = "^(sha256:[0-9a-f]{64})?$"))]
    digest: Option<String>,
    /// When nodes pull it
    pull_policy: Option<PullPolicy>,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used")]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Crds {
    /// Install and upgrade them with the chart
    enabled: Option<bool>,
    /// Leave them when the chart is uninstalled
    keep: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct ServiceAccount {
    /// Make it
    create: Option<bool>,
    /// The release's name when empty
    name: Option<String>,
    /// Its annotations
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Log {
    /// What is logged, such as info or peerrelay=debug,warn
    level: Option<String>,
    /// How
    format: Option<LogFormat>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
enum LogFormat {
    Text,
    Json,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Create {
    /// Make them
    create: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Enabled {
    /// Use it
    enabled: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct NetworkPolicy {
    /// Make one
    enabled: Option<bool>,
    /// Who may read the metrics, as in a NetworkPolicy
    #[schemars(length(min = 1))]
    metrics_from: Option<Vec<Map<String, Value>>>,
    /// Ports of the API server
    #[schemars(length(min = 1), inner(range(min = 1)))]
    api_server_ports: Option<Vec<u16>>,
    /// Where the API server is, as in a NetworkPolicy; anywhere when empty
    api_server_to: Option<Vec<Map<String, Value>>>,
}

/// The schema, as Helm reads it.
pub(crate) fn schema() -> String {
    let schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<ChartValues>();
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// What scrapes and judges the operator
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Metrics {
    /// Labels by which a Prometheus selects the objects of the operator and of all PeerRelays
    #[schemars(schema_with = "labels")]
    labels: Option<BTreeMap<String, String>>,
    /// A ServiceMonitor of prometheus-operator
    service_monitor: Option<Monitor>,
    /// A PrometheusRule with the alerts of deploy/monitoring that need the operator's metrics
    prometheus_rule: Option<Rule>,
    /// A ConfigMap with a dashboard of all PeerRelays, for Grafana's sidecar
    dashboard: Option<Dashboard>,
}

/// A ConfigMap for Grafana's sidecar
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Dashboard {
    /// Make it
    enabled: Option<bool>,
    /// Labels by which the sidecar finds it
    #[schemars(schema_with = "labels")]
    labels: Option<BTreeMap<String, String>>,
    /// Annotations, such as the one that names Grafana's folder
    annotations: Option<BTreeMap<String, String>>,
}

/// A ServiceMonitor
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Monitor {
    /// Make it; the cluster must know its kind
    enabled: Option<bool>,
    /// Further labels, by which a Prometheus selects it
    #[schemars(schema_with = "labels")]
    labels: Option<BTreeMap<String, String>>,
    /// Time between two scrapes; what Prometheus has when empty
    #[schemars(length(max = 16), regex(pattern = DURATION))]
    interval: Option<String>,
    /// Time after which a scrape has failed; what Prometheus has when empty
    #[schemars(length(max = 16), regex(pattern = DURATION))]
    scrape_timeout: Option<String>,
}

/// A PrometheusRule
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct Rule {
    /// Make it; the cluster must know its kind
    enabled: Option<bool>,
    /// Further labels, by which a Prometheus selects it
    #[schemars(schema_with = "labels")]
    labels: Option<BTreeMap<String, String>>,
}

/// Defaults for all PeerRelays that say nothing else
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct RelayDefaults {
    /// As spec.monitoring
    monitoring: Option<MonitoringDefaults>,
}

/// Defaults for spec.monitoring
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
struct MonitoringDefaults {
    /// Labels of their ServiceMonitors and PrometheusRules, besides metrics.labels
    #[schemars(schema_with = "labels")]
    labels: Option<BTreeMap<String, String>>,
    /// Time between two scrapes; what Prometheus has when empty
    #[schemars(length(max = 16), regex(pattern = DURATION))]
    interval: Option<String>,
    /// Time after which a scrape has failed; what Prometheus has when empty
    #[schemars(length(max = 16), regex(pattern = DURATION))]
    scrape_timeout: Option<String>,
    /// Rules for labels of targets
    #[schemars(length(max = 32))]
    relabelings: Option<Vec<Relabeling>>,
    /// Rules for scraped series
    #[schemars(length(max = 32))]
    metric_relabelings: Option<Vec<Relabeling>>,
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    })
}
