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
/// List of objects of Kubernetes.
pub(super) type Objects = Vec<Fields>;
/// Annotations of an object.
pub(super) type Annotations = Option<BTreeMap<String, String>>;

/// Image with registry, repository, and tag or digest
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Image {
    /// Registry of the image
    registry: Option<String>,
    /// Repository of the image, without a tag
    #[schemars(regex(pattern = "^[^:@\\s]*(:[0-9]+/[^:@\\s]+)?$"))]
    repository: Option<String>,
    /// Tag of the image. If empty, the chart's appVersion
    #[schemars(regex(pattern = "^[A-Za-z0-9_.-]{0,128}$"))]
    tag: Option<String>,
    /// Digest of the image. Overrides the tag
    #[schemars(regex(pattern = "^(sha256:[0-9a-f]{64})?$"))]
    digest: Option<String>,
    /// Pull policy of the image
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

/// Secrets of a namespace that the operator may read
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Credentials {
    /// Namespace of the Secrets and of the PeerRelays
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    namespace: String,
    /// Names of the Secrets
    #[schemars(
        length(min = 1, max = 64),
        inner(
            length(min = 1, max = 253),
            regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
        )
    )]
    secrets: Vec<String>,
}

/// Tokens of the operator for federated identities
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WorkloadIdentity {
    /// Audiences of the tokens
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    audiences: Option<Vec<String>>,
}

/// Reference to a Secret by its name
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
    /// Install and upgrade the definitions with the chart
    enabled: Option<bool>,
    /// Keep the definitions when the chart is uninstalled
    keep: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Rbac {
    /// Create the roles
    create: Option<bool>,
    /// Allow users with the built-in roles to use PeerRelays
    aggregate_cluster_roles: Option<bool>,
    /// Additional rules for the operator
    #[schemars(schema_with = "objects")]
    additional_permissions: Objects,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ServiceAccount {
    /// Create the ServiceAccount
    create: Option<bool>,
    /// Name of the ServiceAccount
    #[schemars(schema_with = "name")]
    name: String,
    #[serde(flatten)]
    metadata: Metadata,
    /// Mount the token into pods that do not override this
    automount_service_account_token: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdmissionPolicy {
    /// Install the admission policy
    enabled: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LeaderElection {
    /// Time after which a lease that was not renewed expires
    #[schemars(schema_with = "duration")]
    lease_duration: String,
    /// Time after which a leader that could not renew its lease stops acting
    #[schemars(schema_with = "duration")]
    renew_deadline: String,
    /// Time between two attempts to acquire or renew the lease
    #[schemars(schema_with = "duration")]
    retry_period: String,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Log {
    /// Log level, such as info or peerrelay=debug,warn
    level: Option<String>,
    /// Format of the log
    format: Option<LogFormat>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
enum LogFormat {
    Text,
    Json,
}

/// Service for the metrics
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Service {
    #[serde(flatten)]
    metadata: Metadata,
    /// IP family policy of the Service
    ip_family_policy: Option<IpFamilyPolicy>,
    /// IP families of the Service in order of preference
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

/// Monitoring of the operator
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Metrics {
    /// Port of metrics and probes
    #[schemars(range(min = 1, max = 65535))]
    port: Option<u16>,
    /// Labels with which a Prometheus selects the objects of the operator and of all PeerRelays
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// ServiceMonitor of the operator
    service_monitor: Monitor,
    /// PodMonitor of the operator
    pod_monitor: Monitor,
    /// PrometheusRule with alerts from the operator's metrics
    prometheus_rule: Rule,
    /// ConfigMap with a dashboard of all PeerRelays
    dashboard: Dashboard,
}

/// ServiceMonitor or PodMonitor of prometheus-operator
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Monitor {
    #[serde(flatten)]
    object: MonitoringObject,
    #[serde(flatten)]
    scraping: Scraping,
    /// Keep labels of the metrics that collide with labels of the target
    honor_labels: Option<bool>,
}

/// PrometheusRule of prometheus-operator
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(flatten)]
    object: MonitoringObject,
    /// Names of alerts to leave out
    #[schemars(schema_with = "alerts")]
    disabled: Vec<String>,
    /// Severities of alerts by name
    #[schemars(schema_with = "severities")]
    severities: BTreeMap<String, String>,
    /// Additional rules of the PrometheusRule
    #[schemars(schema_with = "objects")]
    extra_alerts: Objects,
}

/// ConfigMap for the sidecar of Grafana
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Dashboard {
    #[serde(flatten)]
    object: MonitoringObject,
}

/// Object for Prometheus or Grafana
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MonitoringObject {
    /// Create the object. The cluster must have its kind
    enabled: Option<bool>,
    /// Namespace of the object. If empty, the namespace of the operator
    #[schemars(schema_with = "name")]
    namespace: String,
    #[serde(flatten)]
    metadata: Metadata,
}

/// Metadata that users add to an object
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    /// Additional labels of the object
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations of the object
    annotations: Annotations,
}

/// Settings of scrapes
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Scraping {
    /// Time between two scrapes. If empty, the default of Prometheus
    #[schemars(schema_with = "duration")]
    interval: String,
    /// Timeout of a scrape. If empty, the default of Prometheus
    #[schemars(schema_with = "duration")]
    scrape_timeout: String,
    /// Relabeling rules for targets
    #[schemars(length(max = 32))]
    relabelings: Option<Vec<Relabeling>>,
    /// Relabeling rules for scraped series
    #[schemars(length(max = 32))]
    metric_relabelings: Option<Vec<Relabeling>>,
}

/// Defaults for all PeerRelays
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RelayDefaults {
    /// Image of the relays
    image: Image,
    /// Secrets with which nodes pull the image
    #[schemars(schema_with = "texts")]
    image_pull_secrets: Vec<String>,
    /// CPU and memory of a relay
    #[schemars(schema_with = "fields")]
    resources: Fields,
    /// Labels of the relays' pods
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    /// Annotations of the relays' pods
    annotations: Annotations,
    /// Priority class of the relays' pods
    #[schemars(schema_with = "name")]
    priority_class_name: String,
    /// Update strategy of the relays
    update_strategy: Option<AnyUpdateStrategy>,
    /// Environment variables of the relays
    #[schemars(schema_with = "variables")]
    environment: BTreeMap<String, String>,
    /// Defaults for spec.monitoring
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

/// Defaults for spec.monitoring of all PeerRelays
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MonitoringDefaults {
    /// Labels of the relays' ServiceMonitors and PrometheusRules, in addition to metrics.labels
    #[schemars(schema_with = "labels")]
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    scraping: Scraping,
}

/// PeerRelay to create
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Relay {
    /// Namespace of the PeerRelay. If empty, the namespace of the operator
    #[schemars(schema_with = "name")]
    namespace: String,
    #[serde(flatten)]
    metadata: Metadata,
    /// Spec of the PeerRelay, which the API server validates
    spec: Spec,
}

/// Spec of a PeerRelay
#[derive(JsonSchema)]
struct Spec {
    #[serde(flatten)]
    fields: Map<String, Value>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PodDisruptionBudget {
    /// Create a PodDisruptionBudget
    enabled: Option<bool>,
    /// Minimum number of available pods
    #[schemars(schema_with = "share")]
    min_available: Value,
    /// Maximum number of unavailable pods
    #[schemars(schema_with = "share")]
    max_unavailable: Value,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetworkPolicy {
    /// Create a NetworkPolicy
    enabled: Option<bool>,
    /// Sources of metrics requests, as in a NetworkPolicy
    #[schemars(length(min = 1))]
    metrics_from: Option<Vec<Map<String, Value>>>,
    /// Ports of the API server
    #[schemars(length(min = 1), inner(range(min = 1)))]
    api_server_ports: Option<Vec<u16>>,
    /// Addresses of the API server, as in a NetworkPolicy. If empty, all addresses
    api_server_to: Option<Vec<Map<String, Value>>>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct OpenShift {
    /// Create the SecurityContextConstraints that relays on the host network need
    relay_security_context_constraints: Option<bool>,
}

/// Schema of labels. `null` removes a default.
pub(super) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "maxProperties": 32,
        "additionalProperties": {"type": ["string", "null"], "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

/// Schema of a name, which may be empty.
pub(super) fn name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "null"],
        "maxLength": 63,
        "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$",
    })
}

/// Schema of a list of namespaces.
pub(super) fn namespaces(_: &mut SchemaGenerator) -> Schema {
    let name = json_schema!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"});
    json_schema!({"type": ["array", "null"], "maxItems": 64, "uniqueItems": true, "items": name})
}

/// Schema of an object of Kubernetes.
pub(super) fn fields(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["object", "null"], "additionalProperties": true})
}

/// Schema of a list of objects of Kubernetes.
pub(super) fn objects(_: &mut SchemaGenerator) -> Schema {
    let object = json_schema!({"type": "object", "additionalProperties": true});
    json_schema!({"type": ["array", "null"], "items": object})
}

/// Schema of a list of texts.
pub(super) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["array", "null"], "items": {"type": "string", "minLength": 1}})
}

fn duration(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "maxLength": 16, "pattern": DURATION})
}

/// Schema of environment variables. Line breaks separate them, so values have none.
fn variables(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["object", "null"],
        "patternProperties": {
            "^[A-Za-z0-9_]+$": {"type": ["string", "null"], "pattern": "^[^\\n]*$"},
        },
        "additionalProperties": false,
    })
}

/// Schema of a number of pods or a percentage.
fn share(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string", "null"], "minimum": 0, "pattern": "^[0-9]{1,3}%$"})
}

/// Returns the names of the alerts that the chart has.
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
