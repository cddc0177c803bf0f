//! Writes into each `RelayNode` what other relays found of its addresses: one request for each
//! changed verdict.

use std::sync::Arc;

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::probes::ProbeResults;
use crate::{crd::RelayNode, names};

/// Brings `status.verification` of `nodes` to what they say of each other.
///
/// # Errors
/// The first request that failed.
pub async fn write(
    client: &Client,
    namespace: &str,
    nodes: &[Arc<RelayNode>],
) -> Result<(), Box<kube::Error>> {
    let api: Api<RelayNode> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(names::OPERATOR).force();
    let results = ProbeResults::new(nodes);
    for node in nodes {
        let Some(verification) = results.verification(node) else {
            continue;
        };
        let patch = json!({
            "apiVersion": RelayNode::api_version(&()),
            "kind": RelayNode::kind(&()),
            "metadata": {"name": node.name_any(), "uid": node.uid()},
            "status": {"verification": verification},
        });
        let name = node.name_any();
        let patched = api
            .patch_status(&name, &params, &Patch::Apply(&patch))
            .await;
        match patched {
            Ok(_) => {}
            // Gone with its pod, or another one by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(Box::new(error)),
        }
    }
    Ok(())
}
