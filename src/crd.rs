//! The custom resources, group `peerrelay.dev`, version `v1alpha1`.
//!
//! These types are the source of `crds/`; a test holds the files to them.
#![allow(
    clippy::duplicated_attributes,
    reason = "each printcolumn repeats its keys"
)]
#![allow(
    unreachable_pub,
    reason = "the derive repeats each type inside of a function"
)]

pub mod admission;
pub mod data_path;
pub mod endpoints;
pub mod exposure;
pub mod grants;
pub mod limits;
pub mod log_level;
pub mod monitoring;
pub mod peer_relay;
pub mod placement;
pub mod probe;
pub mod relay_node;
pub mod template;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;
use serde_json::json;

pub use self::{
    data_path::DataPath,
    peer_relay::{PeerRelay, PeerRelaySpec, PeerRelayStatus},
    relay_node::{RelayNode, RelayNodeSpec, RelayNodeStatus},
};

/// API group.
pub const GROUP: &str = "peerrelay.dev";

/// Every custom resource definition, as it is installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![unseen_until_reconciled(PeerRelay::crd()), RelayNode::crd()]
}

/// The definitions as one YAML stream.
pub fn to_yaml() -> String {
    let document = |crd: &CustomResourceDefinition| {
        let yaml = serde_yaml::to_string(crd).expect("definitions are plain data");
        format!("---\n{yaml}")
    };
    all().iter().map(document).collect()
}

/// Gives a new object the status `observedGeneration: -1`, so that nothing takes it for current
/// before the operator has seen it (kstatus).
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
