//! Values of the chart. The JSON schema of `values.yaml` is generated from this type.
//!
//! Sections are required objects: a section that is `null` would break the templates. Their fields
//! may be `null`, which means empty.

mod parts;

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use self::parts::{
    AdmissionPolicy, Annotations, Crds, Credentials, Fields, Image, LeaderElection, Log, Metrics,
    NetworkPolicy, Objects, OpenShift, PodDisruptionBudget, PullSecret, Rbac, Relay, RelayDefaults,
    Service, ServiceAccount, WorkloadIdentity, fields, labels, name, namespaces, objects, texts,
};

/// Path of the generated schema.
pub(crate) const SCHEMA: &str = "charts/peerrelay-operator/values.schema.json";

/// Values of the peerrelay-operator chart
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct ChartValues {
    /// Condition of this dependency in parent charts
    enabled: Option<bool>,
    /// Values that a parent chart shares with its dependencies
    global: Option<Global>,
    /// Replaces the chart's name in names and labels
    #[schemars(schema_with = "name")]
    name_override: String,
    /// Name of all objects
    #[schemars(schema_with = "name")]
    fullname_override: String,
    /// Namespace of the operator
    #[schemars(schema_with = "name")]
    namespace_override: String,
    /// Image of the operator, and of the relays
    image: Image,
    /// Secrets with which nodes pull the operator's image
    image_pull_secrets: Option<Vec<PullSecret>>,
    /// Number of replicas, of which one acts
    #[schemars(range(min = 0, max = 9))]
    replica_count: Option<u8>,
    /// Update strategy, as in a Deployment
    #[schemars(schema_with = "fields")]
    strategy: Fields,
    /// Number of old ReplicaSets to keep
    #[schemars(range(min = 0, max = 100))]
    revision_history_limit: Option<u8>,
    /// Time in seconds that a pod has to stop
    #[schemars(range(min = 0, max = 3600))]
    termination_grace_period_seconds: Option<u16>,
    /// Custom resource definitions
    crds: Crds,
    /// Roles of the operator and of users
    rbac: Rbac,
    /// Namespaces whose PeerRelays the operator reconciles
    #[schemars(schema_with = "namespaces")]
    watch_namespaces: Vec<String>,
    /// Secrets with OAuth clients that the operator may read
    #[schemars(length(max = 64))]
    credentials: Option<Vec<Credentials>>,
    /// Tokens of the operator for federated identities
    workload_identity: WorkloadIdentity,
    /// ServiceAccount of the operator
    service_account: ServiceAccount,
    /// Mount the token into the operator's pods
    automount_service_account_token: Option<bool>,
    /// Admission policy that denies a relay to write the RelayNode of another relay
    admission_policy: AdmissionPolicy,
    /// Times of the leader election among the replicas
    leader_election: LeaderElection,
    /// Number of PeerRelays that are reconciled at the same time
    #[schemars(range(min = 1, max = 64))]
    concurrency: Option<u16>,
    /// Log of the operator
    log: Log,
    /// Additional arguments of the operator
    #[schemars(schema_with = "texts")]
    extra_args: Vec<String>,
    /// Additional environment variables of the operator
    #[schemars(schema_with = "objects")]
    extra_env: Objects,
    /// Sources of additional environment variables
    #[schemars(schema_with = "objects")]
    env_from: Objects,
    /// Additional volumes of the pods
    #[schemars(schema_with = "objects")]
    extra_volumes: Objects,
    /// Additional volume mounts of the operator's container
    #[schemars(schema_with = "objects")]
    extra_volume_mounts: Objects,
    /// Additional containers of the pods
    #[schemars(schema_with = "objects")]
    extra_containers: Objects,
    /// Init containers of the pods
    #[schemars(schema_with = "objects")]
    init_containers: Objects,
    /// Additional entries of /etc/hosts
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
    /// CPU and memory of the operator
    #[schemars(schema_with = "fields")]
    resources: Fields,
    /// Labels of the nodes on which the operator may run
    #[schemars(schema_with = "labels")]
    node_selector: BTreeMap<String, String>,
    /// Tolerations of the pods
    #[schemars(schema_with = "objects")]
    tolerations: Objects,
    /// Affinity of the pods
    #[schemars(schema_with = "fields")]
    affinity: Fields,
    /// Topology spread constraints of the pods
    #[schemars(schema_with = "objects")]
    topology_spread_constraints: Objects,
    /// Priority class of the pods
    #[schemars(schema_with = "name")]
    priority_class_name: String,
    /// Runtime class of the pods
    #[schemars(schema_with = "name")]
    runtime_class_name: String,
    /// Use the network of the node
    host_network: Option<bool>,
    /// DNS policy of the pods
    dns_policy: Option<String>,
    /// DNS settings of the pods
    #[schemars(schema_with = "fields")]
    dns_config: Fields,
    /// Labels of the Deployment
    #[schemars(schema_with = "labels")]
    deployment_labels: BTreeMap<String, String>,
    /// Annotations of the Deployment
    deployment_annotations: Annotations,
    /// Annotations of the pods
    pod_annotations: Annotations,
    /// Labels of the pods
    #[schemars(schema_with = "labels")]
    pod_labels: BTreeMap<String, String>,
    /// Labels of all objects
    #[schemars(schema_with = "labels")]
    common_labels: BTreeMap<String, String>,
    /// Annotations of all objects
    common_annotations: Annotations,
    /// Service for the metrics
    service: Service,
    /// Monitoring of the operator
    metrics: Metrics,
    /// Defaults for all PeerRelays
    relay_defaults: RelayDefaults,
    /// PeerRelays to create, by name
    relays: Option<BTreeMap<String, Relay>>,
    /// PodDisruptionBudget of the operator
    pod_disruption_budget: PodDisruptionBudget,
    /// NetworkPolicy of the operator
    network_policy: NetworkPolicy,
    /// Settings for OpenShift
    openshift: OpenShift,
    /// Additional objects, as YAML or as text
    extra_objects: Option<Vec<Value>>,
}

/// Values that a parent chart shares with its dependencies
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

/// Returns the schema in the form that Helm reads.
pub(crate) fn schema() -> String {
    let schema = SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<ChartValues>();
    let mut schema = serde_json::to_value(&schema).expect("a schema is plain data");
    may_be_empty(&mut schema);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Removes all fields but sections from `required`, as only sections must not be null. Also removes
/// number formats that Helm does not know; the minimum and maximum say the same.
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
