//! Verification controller. It writes into each `RelayNode` which of its addresses other relays
//! reach, with one request for each changed result.

use std::{convert::Infallible, sync::Arc, time::Duration};

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

use super::{probes::ProbeResults, stores::Stores, view::reports};
use crate::{backoff::Backoff, crd::RelayNode, names};

/// Backoff after consecutive failures.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(32));

/// Verifies the addresses of each PeerRelay whose reports have changed.
pub async fn control(client: &Client, stores: &Stores) -> Infallible {
    // Before all pods are known, reports seem to have no pod.
    if stores.wait_until_ready().await.is_err() {
        return std::future::pending().await;
    }
    let mut failures = 0;
    loop {
        let relay = stores.changed_reports.next().await;
        // Reports of a deleted PeerRelay are deleted with it.
        let Some(found) = stores.peer_relays.get(&relay) else {
            continue;
        };
        if found.spec.paused || found.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let namespace = relay.namespace.as_deref().unwrap_or_default();
        match write(client, namespace, &reports(stores, &found)).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let name = &relay.name;
                tracing::warn!(%error, name, namespace, "failed to write the verification of addresses");
                stores.changed_reports.add(relay);
                sleep(BACKOFF.after(failures)).await;
            }
        }
    }
}

/// Updates `status.verification` of all `nodes` of a PeerRelay from their reports about each other.
async fn write(
    client: &Client,
    namespace: &str,
    nodes: &[Arc<RelayNode>],
) -> Result<(), kube::Error> {
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
            // The report was deleted with its pod, or now belongs to another pod.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
