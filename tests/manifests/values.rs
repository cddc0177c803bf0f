//! What `values.yaml` of the chart may say; its JSON schema is made from this.
//!
//! Sections are required and objects, as `null` would take away what the templates look into. Their
//! fields may be `null`, which is empty.

mod parts;

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use self::parts::{
    AdmissionPolicy, Annotations, Crds, Fields, Image, LeaderElection, Log, Metrics, NetworkPolicy,
    Objects, OpenShift, PodDisruptionBudget, PullSecret, Rbac, Relay, RelayDefaults, Service,
    ServiceAccount, fields, labels, name, namespaces, objects, texts,
};

/// Where the schema is kept.
pub(crate) const SCHEMA: &str = "charts/peerrelay-operator/values.schema.json";

/// Values of the peerrelay-operator chart
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct ChartValues {
    /// Condition of a parent chart
    enabled: Option<bool>,
    /// Values that a parent chart shares
    global: Option<Global>,
    /// Stands for the chart's name in names and labels
    #[schemars(schema_with = "name")]
    name_override: String,
    /// Name of every object
    #[schemars(schema_with = "name")]
    fullname_override: String,
    /// Namespace of the operator
    #[schemars(schema_with = "name")]
    namespace_override: String,
    /// Image of the operator, and of the relays that it starts
    image: Image,
    /// Secrets with which nodes pull the image
    image_pull_secrets: Option<Vec<PullSecret>>,
    /// Replicas of the operator, of which one acts
    #[schemars(range(min = 0, max = 9))]
    replica_count: Option<u8>,
    /// How pods are replaced, as in a Deployment
    #[schemars(schema_with = "fields")]
    strategy: Fields,
    /// Old ReplicaSets that are kept
    #[schemars(range(min = 0, max = 100))]
    revision_history_limit: Option<u8>,
    /// Seconds that a pod gets to end
    #[schemars(range(min = 0, max = 3600))]
    termination_grace_period_seconds: Option<u16>,
    /// Custom resource definitions
    crds: Crds,
    /// Roles
    rbac: Rbac,
    /// Namespaces whose PeerRelays the operator looks after
    #[schemars(schema_with = "namespaces")]
    watch_namespaces: Vec<String>,
    /// Identity of the operator
    service_account: ServiceAccount,
    /// Give the token to the operator's pods
    automount_service_account_token: Option<bool>,
    /// Refuses a relay that writes the RelayNode of another
    admission_policy: AdmissionPolicy,
    /// Times by which one of several replicas is elected
    leader_election: LeaderElection,
    /// PeerRelays that are reconciled at the same time
    #[schemars(range(min = 1, max = 64))]
    concurrency: Option<u16>,
    /// Log of the operator
    log: Log,
    /// Further arguments of the operator
    #[schemars(schema_with = "texts")]
    extra_args: Vec<String>,
    /// Further variables of the operator
    #[schemars(schema_with = "objects")]
    extra_env: Objects,
    /// Sources of further variables
    #[schemars(schema_with = "objects")]
    env_from: Objects,
    /// Further volumes of the pods
    #[schemars(schema_with = "objects")]
    extra_volumes: Objects,
    /// Mounts of the operator's container
    #[schemars(schema_with = "objects")]
    extra_volume_mounts: Objects,
    /// Further containers of the pods
    #[schemars(schema_with = "objects")]
    extra_containers: Objects,
    /// Containers that run before
    #[schemars(schema_with = "objects")]
    init_containers: Objects,
    /// Further entries of /etc/hosts
    #[schemars(schema_with = "objects")]
    host_aliases: Objects,
    /// Security context of the pods
    #[schemars(schema_with = "fields")]
    pod_security_context: Fields,
    /// Security context of the operator's container
    #[schemars(schema_with = "fields")]
    security_context: Fields,
    /// Fields of the liveness probe
    #[schemars(schema_with = "fields")]
    liveness_probe: Fields,
    /// Fields of the readiness probe
    #[schemars(schema_with = "fields")]
    readiness_probe: Fields,
    /// Fields of the startup probe
    #[schemars(schema_with = "fields")]
    startup_probe: Fields,
    /// Resources of the operator
    #[schemars(schema_with = "fields")]
    resources: Fields,
    /// Nodes of the operator
    #[schemars(schema_with = "labels")]
    node_selector: BTreeMap<String, String>,
    /// Taints that the operator tolerates
    #[schemars(schema_with = "objects")]
    tolerations: Objects,
    /// Affinity of the operator
    #[schemars(schema_with = "fields")]
    affinity: Fields,
    /// How replicas are spread
    #[schemars(schema_with = "objects")]
    topology_spread_constraints: Objects,
    /// Priority class of the operator
    #[schemars(schema_with = "name")]
    priority_class_name: String,
    /// Runtime class of the operator
    #[schemars(schema_with = "name")]
    runtime_class_name: String,
    /// Use the network of the node
    host_network: Option<bool>,
    /// DNS policy
    dns_policy: Option<String>,
    /// DNS settings
    #[schemars(schema_with = "fields")]
    dns_config: Fields,
    /// Labels of the Deployment
    #[schemars(schema_with = "labels")]
    deployment_labels: BTreeMap<String, String>,
    /// Annotations of the Deployment
    deployment_annotations: Annotations,
    /// Annotations of the operator's pods
    pod_annotations: Annotations,
    /// Labels of the operator's pods
    #[schemars(schema_with = "labels")]
    pod_labels: BTreeMap<String, String>,
    /// Labels of every object
    #[schemars(schema_with = "labels")]
    common_labels: BTreeMap<String, String>,
    /// Annotations of every object
    common_annotations: Annotations,
    /// Service of the metrics
    service: Service,
    /// What scrapes and judges the operator
    metrics: Metrics,
    /// Defaults for all PeerRelays that say nothing else
    relay_defaults: RelayDefaults,
    /// PeerRelays by name
    relays: Option<BTreeMap<String, Relay>>,
    /// Keeps replicas while nodes are drained
    pod_disruption_budget: PodDisruptionBudget,
    /// What may reach the operator, and what it may reach
    network_policy: NetworkPolicy,
    /// What OpenShift needs
    openshift: OpenShift,
    /// Further objects, as YAML or as text
    extra_objects: Option<Vec<Value>>,
}

/// Values that a parent chart shares
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct Global {
    /// Registry of all images
    image_registry: Option<String>,
    /// Secrets with which nodes pull all images
    image_pull_secrets: Option<Vec<PullSecret>>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The schema, as Helm reads it.
pub(crate) fn schema() -> String {
    let schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<ChartValues>();
    let mut schema = serde_json::to_value(&schema).expect("a schema is plain data");
    may_be_empty(&mut schema);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Only sections are required: without one, templates would look into nothing. What Helm does not know
/// of numbers is said by their bounds.
fn may_be_empty(value: &mut Value) {
    let is_section = |schema: &Value| !schema["$ref"].is_null() || !schema["allOf"].is_null();
    match value {
        Value::Object(fields) => {
            let format = fields.get("format").and_then(Value::as_str);
            if format.is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            let properties = fields.get("properties").cloned().unwrap_or_default();
            if let Some(Value::Array(required)) = fields.get_mut("required") {
                required.retain(|name| is_section(&properties[name.as_str().unwrap_or_default()]));
                if required.is_empty() {
                    fields.remove("required");
                }
            }
            fields.values_mut().for_each(may_be_empty);
        }
        Value::Array(items) => items.iter_mut().for_each(may_be_empty),
        _ => {}
    }
}
