//! Template of the relays' pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Template of the relays' pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Image of the relays. If empty, the operator's default is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Names of Secrets in the same namespace with which nodes pull the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// CPU and memory of the relay container. If empty, the operator's default is used: requests of
    /// 50m CPU and 32Mi memory, and a memory limit of 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Priority class of the pods. A high priority protects relays from eviction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Additional labels of the pods. Labels that the operator sets take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations of the pods. Annotations that the operator sets take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Update strategy of the relays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// Strategic merge patch for the `spec` of the pods, for settings that have no field here:
    /// additional containers, volumes, environment, probes, DNS. It cannot change what relays need
    /// or what another field of this object sets. Its maximum size is 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub pod_overrides: Option<Map<String, Value>>,
}

/// Update strategy of the relays.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'RollingUpdate' || !has(self.maxUnavailable)").message("template.updateStrategy.maxUnavailable is for type RollingUpdate: remove it, or change the type"))]
pub struct UpdateStrategy {
    /// `RollingUpdate` replaces relays one after the other. `OnDelete` replaces a relay when its
    /// pod is deleted.
    #[serde(default, rename = "type")]
    #[schemars(default)]
    pub kind: UpdateType,
    /// Maximum number of relays of a region that may be unavailable during an update. If empty, it
    /// is 1. If `maxRelays` of the region or of the PeerRelay applies, relays on nodes that do not
    /// respond are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: Option<u16>,
}

/// Type of an update strategy.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum UpdateType {
    /// Relays are replaced one after the other when the PeerRelay changes.
    #[default]
    RollingUpdate,
    /// A relay is replaced when its pod is deleted.
    OnDelete,
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
