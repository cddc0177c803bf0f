//! How the relays' pods are made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How the relays' pods are made.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Image, instead of the operator's choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Secrets of the same namespace with which nodes may get the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// CPU and memory, instead of the operator's choice: 50m and 32Mi requested, 256Mi at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Priority class, so that relays are not the first to make place for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Further labels of pods; those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations of pods; those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// How relays are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_strategy: Option<UpdateStrategy>,
    /// A strategic merge patch for the `spec` of pods, for what has no field here: further
    /// containers, volumes, environment, probes, DNS. What relays cannot do without, or what is
    /// decided elsewhere in this object, cannot be changed by it. 16 KiB at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "anything")]
    pub pod_overrides: Option<Map<String, Value>>,
}

/// How relays are replaced.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'RollingUpdate' || !has(self.maxUnavailable)").message("template.updateStrategy.maxUnavailable is for type RollingUpdate: remove it, or change the type"))]
pub struct UpdateStrategy {
    /// `RollingUpdate`: one after the other. `OnDelete`: when somebody deletes the old pod.
    #[serde(default, rename = "type")]
    #[schemars(default)]
    pub kind: UpdateType,
    /// Relays of a region that may be missing at the same time while they are replaced; 1 when
    /// empty. Those on nodes that do not answer are not counted where `maxRelays` or a total applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_unavailable: Option<u16>,
}

/// When relays are replaced.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum UpdateType {
    /// When something changes.
    #[default]
    RollingUpdate,
    /// When the old pod is deleted.
    OnDelete,
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
