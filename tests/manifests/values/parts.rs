//! Sections of the values.
#![allow(dead_code, reason = "only their schemas are used")]

use std::collections::BTreeMap;

use peerrelay::{
    crd::{
        monitoring::{DURATION, LABEL_VALUE, Relabeling},
        template::UpdateStrategy,
    },
    monitoring::{ALERTS, Scope},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// An object of Kubernetes, whose fields the API server judges.
pub(super) type Fields = Map<String, Value>;
/// Several of them.
pub(super) type Objects = Vec<Fields>;
/// Annotations.
pub(super) type Annotations = Option<BTreeMap<String, String>>;

/// Image with registry, repository, and tag or digest
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Image {
    /// Registry before the repository
    registry: Option<String>,
    /// Name without tag
    #[schemars(regex(pattern = "^[^:@\\s]*(:[0-9]+/[^:@\\s]+)?$"))]
    repository: Option<String>,
    /// The chart's appVersion when empty
    #[schemars(regex(pattern = "^[A-Za-z0-9_.-]{0,128}$"))]
    tag: Option<String>,
    /// Wins over the tag
    #[schemars(regex(pattern = "^(sha256:[0-9a-f]{64})?$"))]
    digest: Option<String>,
    /// When nodes pull it
    pull_policy: Option<PullPolicy>,
}

#[derive(JsonSchema)]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
    #[serde(rename = "")]
    Empty,
}

/// A Secret by its name
#[derive(JsonSchema)]
#[serde(untagged)]
pub(super) enum PullSecret {
    Name(String),
    Reference(SecretReference),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretReference {
    /// Name of the Secret
    name: Option<String>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Crds {
    /// Install and upgrade them with the chart
    enabled: Option<bool>,
    /// Leave them when the chart is uninstalled
    keep: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rbac {
    /// Make them
    create: Option<bool>,
    /// Let users of the built-in roles use PeerRelays
    aggregate_cluster_roles: Option<bool>,
    /// Further rules for the operator
    #[schemars(schema_with = "objects")]
    additional_permissions: Objects,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceAccount {
    /// Make it
    create: Option<bool>,
    /// Its name
    #[schemars(schema_with = "name")]
    name: String,
    /// Its annotations
    annotations: Annotations,
    /// Its labels
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Give its token to pods that say nothing else
    automount_service_account_token: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdmissionPolicy {
    /// Use it
    enabled: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LeaderElection {
    /// Time after which a leader that has not renewed its lease is taken to be gone
    #[schemars(schema_with = "duration")]
    lease_duration: String,
    /// Time after which a leader that could not renew its lease stops acting
    #[schemars(schema_with = "duration")]
    renew_deadline: String,
    /// Time between two attempts
    #[schemars(schema_with = "duration")]
    retry_period: String,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Log {
    /// What is logged, such as info or peerrelay=debug,warn
    level: Option<String>,
    /// How
    format: Option<LogFormat>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
enum LogFormat {
    Text,
    Json,
}

/// Service of the metrics
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    /// Annotations
    annotations: Annotations,
    /// Labels
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// IP families, how many
    ip_family_policy: Option<IpFamilyPolicy>,
    /// IP families, which
    #[schemars(length(max = 2))]
    ip_families: Option<Vec<IpFamily>>,
}

#[derive(JsonSchema)]
enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
    #[serde(rename = "")]
    Empty,
}

#[derive(JsonSchema)]
enum IpFamily {
    IPv4,
    IPv6,
}

/// What scrapes and judges the operator
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metrics {
    /// Port of metrics and probes
    #[schemars(range(min = 1, max = 65535))]
    port: Option<u16>,
    /// Labels by which a Prometheus selects the objects of the operator and of all PeerRelays
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// A ServiceMonitor of prometheus-operator
    service_monitor: Monitor,
    /// A PodMonitor of prometheus-operator
    pod_monitor: Monitor,
    /// A PrometheusRule with the alerts of deploy/monitoring that need the operator's metrics
    prometheus_rule: Rule,
    /// A ConfigMap with a dashboard of all PeerRelays, for Grafana's sidecar
    dashboard: Dashboard,
}

/// A ServiceMonitor or PodMonitor
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Monitor {
    /// Make it; the cluster must know its kind
    enabled: Option<bool>,
    /// Its namespace
    #[schemars(schema_with = "name")]
    namespace: String,
    /// Further labels, by which a Prometheus selects it
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations
    annotations: Annotations,
    /// Time between two scrapes; what Prometheus has when empty
    #[schemars(schema_with = "duration")]
    interval: String,
    /// Time after which a scrape has failed; what Prometheus has when empty
    #[schemars(schema_with = "duration")]
    scrape_timeout: String,
    /// Keep labels of metrics that are labels of the target, too
    honor_labels: Option<bool>,
    /// Rules for labels of targets
    #[schemars(length(max = 32))]
    relabelings: Option<Vec<Relabeling>>,
    /// Rules for scraped series
    #[schemars(length(max = 32))]
    metric_relabelings: Option<Vec<Relabeling>>,
}

/// A PrometheusRule
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    /// Make it; the cluster must know its kind
    enabled: Option<bool>,
    /// Its namespace
    #[schemars(schema_with = "name")]
    namespace: String,
    /// Further labels, by which a Prometheus selects it
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations
    annotations: Annotations,
    /// Alerts that are left out
    #[schemars(schema_with = "alerts")]
    disabled: Vec<String>,
    /// Severities by names of alerts
    #[schemars(schema_with = "severities")]
    severities: BTreeMap<String, String>,
    /// Further rules
    #[schemars(schema_with = "objects")]
    extra_alerts: Objects,
}

/// A ConfigMap for Grafana's sidecar
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dashboard {
    /// Make it
    enabled: Option<bool>,
    /// Its namespace
    #[schemars(schema_with = "name")]
    namespace: String,
    /// Labels by which the sidecar finds it
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations, such as the one that names Grafana's folder
    annotations: Annotations,
}

/// Defaults for all PeerRelays that say nothing else
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RelayDefaults {
    /// Image of relays
    image: Image,
    /// Secrets with which nodes pull it
    #[schemars(schema_with = "texts")]
    image_pull_secrets: Vec<String>,
    /// CPU and memory of a relay
    #[schemars(schema_with = "fields")]
    resources: Fields,
    /// Labels of pods
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations of pods
    annotations: Annotations,
    /// Priority class
    #[schemars(schema_with = "name")]
    priority_class_name: String,
    /// How relays are replaced
    update_strategy: Option<AnyUpdateStrategy>,
    /// Variables of the relays' containers
    #[schemars(schema_with = "variables")]
    environment: BTreeMap<String, String>,
    /// As spec.monitoring
    monitoring: MonitoringDefaults,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum AnyUpdateStrategy {
    Set(UpdateStrategy),
    Empty(Empty),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Empty {}

/// Defaults for spec.monitoring
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MonitoringDefaults {
    /// Labels of their ServiceMonitors and PrometheusRules, besides metrics.labels
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Time between two scrapes; what Prometheus has when empty
    #[schemars(schema_with = "duration")]
    interval: String,
    /// Time after which a scrape has failed; what Prometheus has when empty
    #[schemars(schema_with = "duration")]
    scrape_timeout: String,
    /// Rules for labels of targets
    #[schemars(length(max = 32))]
    relabelings: Option<Vec<Relabeling>>,
    /// Rules for scraped series
    #[schemars(length(max = 32))]
    metric_relabelings: Option<Vec<Relabeling>>,
}

/// A PeerRelay
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Relay {
    /// Its namespace; the operator's when empty
    #[schemars(schema_with = "name")]
    namespace: String,
    /// Labels
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations
    annotations: Annotations,
    /// Its spec, which the API server judges
    spec: Spec,
}

/// spec of a PeerRelay
#[derive(JsonSchema)]
struct Spec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodDisruptionBudget {
    /// Make one
    enabled: Option<bool>,
    /// Pods that must stay
    #[schemars(schema_with = "share")]
    min_available: Value,
    /// Pods that may be missing
    #[schemars(schema_with = "share")]
    max_unavailable: Value,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkPolicy {
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

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OpenShift {
    /// Make the SecurityContextConstraints that relays on the host network need
    relay_security_context_constraints: Option<bool>,
}

/// Labels; `null` takes a default away.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "maxProperties": 32,
        "additionalProperties": {"type": ["string", "null"], "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

/// A name, or nothing.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "maxLength": 63,
        "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
    })
}

/// Namespaces.
pub(super) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    let name = json_schema!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"});
    json_schema!({"type": ["array", "null"], "maxItems": 64, "uniqueItems": true, "items": name})
}

/// An object of Kubernetes.
pub(super) fn fields(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "null"], "additionalProperties": true})
}

/// Objects of Kubernetes.
pub(super) fn objects(_: &mut SchemaGenerator) -> Schema {
    let object = json_schema!({"type": "object", "additionalProperties": true});
    json_schema!({"type": ["array", "null"], "items": object})
}

/// Texts.
pub(super) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {"type": "string", "minLength": 1}})
}

fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "maxLength": 16, "pattern": DURATION})
}

/// Variables, without line ends, which separate them.
fn variables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "patternProperties": {
            "^[A-Za-z0-9_]+$": {"type": ["string", "null"], "pattern": "^[^\\n]*$"},
        },
        "additionalProperties": false,
    })
}

/// A number of pods, or a share of them.
fn share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]{1,3}%$"})
}

/// Names of the alerts that the chart has.
fn alert_names() -> Vec<&'static str> {
    let of_operator = ALERTS.iter().filter(|alert| alert.scope == Scope::Operator);
    of_operator.map(|alert| alert.name).collect()
}

fn alerts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {"type": "string", "enum": alert_names()}})
}

fn severities(_: &mut SchemaGenerator) -> Schema {
    let severity =
        json!({"type": ["string", "null"], "enum": ["critical", "warning", "info", null]});
    let named = alert_names()
        .into_iter()
        .map(|name| (name.to_owned(), severity.clone()));
    let properties: Map<String, Value> = named.collect();
    json_schema!({
        "type": ["object", "null"],
        "properties": properties,
        "additionalProperties": false,
    })
}
