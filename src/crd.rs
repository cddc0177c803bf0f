//! Custom resource types of the group `peerrelay.dev`, version `v1alpha1`.
//!
//! These types are the source of `crds/`. A test compares the files with them.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn repeats its keys"
)]
#![allow(
    unreachable_pub,
    reason = "the derive repeats each type inside of a function"
)]

pub mod admission;
pub mod control_server;
pub mod credential;
pub mod device;
pub mod endpoints;
pub mod exposure;
pub mod grants;
pub mod limits;
pub mod monitoring;
pub mod peer_relay;
pub mod placement;
pub mod probe;
pub mod relay_node;
pub mod relay_reason;
pub mod tailnet_credential;
pub mod template;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

pub use self::{
    peer_relay::{PeerRelay, PeerRelaySpec, PeerRelayStatus},
    relay_node::{RelayNode, RelayNodeSpec, RelayNodeStatus},
    tailnet_credential::{TailnetCredential, TailnetCredentialSpec},
};

use crate::names;

/// API group of all custom resources.
pub const GROUP: &str = "peerrelay.dev";

/// Annotation with a checksum of a definition's spec. The chart compares it with the checksum of
/// the definition that is in the cluster.
pub const CHECKSUM_ANNOTATION: &str = "peerrelay.dev/spec-checksum";

/// Returns the definitions of all kinds, as they are installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    let definitions = [
        unseen_until_reconciled(PeerRelay::crd()),
        RelayNode::crd(),
        TailnetCredential::crd(),
    ];
    definitions.map(with_known_formats).map(summed).into()
}

/// Renders the definitions as one YAML stream.
pub fn to_yaml() -> String {
    let document = |crd: &CustomResourceDefinition| format!("---\n{}", document(crd));
    all().iter().map(document).collect()
}

/// Renders a definition as YAML. The word `Off` is in quotes: kubectl and Helm read it as false
/// otherwise.
pub fn document(crd: &CustomResourceDefinition) -> String {
    let yaml = serde_yaml::to_string(crd).expect("definitions are plain data");
    yaml.replace("- Off\n", "- 'Off'\n")
}

/// Gives a new object the status `observedGeneration: -1`. kstatus then does not report it as
/// current before the operator has reconciled it.
fn unseen_until_reconciled(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|s| s.open_api_v3_schema.as_mut());
        let status = schema
            .and_then(|s| s.properties.as_mut())
            .and_then(|p| p.get_mut("status"));
        let status = status.expect("PeerRelay has a status");
        status.default = Some(JSON(json!({"observedGeneration": -1})));
    }
    crd
}

/// Removes the formats `uint8` to `uint64` of schemars. Kubernetes does not know them, and kubectl
/// prints a warning for each. The minimum and maximum of the numbers say the same.
fn with_known_formats(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn visit(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                // A property may have the name "format"; its value is then a schema.
                if fields
                    .get("format")
                    .and_then(Value::as_str)
                    .is_some_and(|f| f.starts_with("uint"))
                {
                    fields.remove("format");
                }
                fields.values_mut().for_each(visit);
            }
            Value::Array(items) => items.iter_mut().for_each(visit),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(crd).expect("definitions are plain data");
    visit(&mut value);
    serde_json::from_value(value).expect("a definition without formats is a definition")
}

/// Adds the annotation [`CHECKSUM_ANNOTATION`].
fn summed(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let spec = serde_json::to_vec(&crd.spec).expect("definitions are plain data");
    let annotations = crd.metadata.annotations.get_or_insert_default();
    annotations.insert(CHECKSUM_ANNOTATION.to_owned(), names::digest(spec, 16));
    crd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_name_only_formats_that_kubernetes_knows() {
        // The number formats in supportedFormats of apiextensions-apiserver.
        let known = ["int32", "int64", "float", "double", "date-time"];
        let text = to_yaml();
        let formats = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("format: "));
        for format in formats {
            assert!(known.contains(&format), "{format}");
        }
    }

    #[test]
    fn checksum_differs_when_the_spec_does() {
        let [relay, node, _] = all().try_into().expect("there are three kinds");
        let sum = |crd: &CustomResourceDefinition| {
            crd.metadata
                .annotations
                .as_ref()
                .map(|all| all[CHECKSUM_ANNOTATION].clone())
        };
        assert_ne!(sum(&relay), sum(&node));
        assert_eq!(sum(&relay), sum(&summed(relay.clone())));
    }
}
