//! The pod in which the operator runs.

use std::time::Duration;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client};
use tokio::time::sleep;

use super::readiness::Readiness;

/// Name of the operator's container.
const CONTAINER: &str = "operator";
/// Wait before the pod is read again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// The properties of the operator's own pod that its relays share.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnPod {
    /// Image of the operator's container, which relays run too unless the operator
    /// has another one for them.
    pub image: String,
    /// `imagePullPolicy` of that container.
    pub pull_policy: String,
    /// Controller of the pod, such as its ReplicaSet. Objects that it owns are removed with the
    /// operator.
    pub owner: Option<OwnerReference>,
}

/// Reason why the operator's pod cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnPodError {
    /// The API server did not return the pod.
    #[error(
        "failed to read the own pod {namespace}/{name}: {source}; the operator needs the right to get pods in its namespace"
    )]
    Read {
        /// Name of the operator's pod.
        name: String,
        /// Namespace of the pod.
        namespace: String,
        /// Error of the API server.
        source: Box<kube::Error>,
    },
    /// The pod has no container with the expected name.
    #[error(
        "the own pod {0} has no container called operator: name it so, or set --relay-image and unset POD_NAME"
    )]
    Container(String),
}

/// Reads the pod, and retries until it succeeds: the RBAC rules may be created later.
pub async fn read(client: &Client, namespace: &str, name: &str, readiness: &Readiness) -> OwnPod {
    loop {
        match try_read(client, namespace, name).await {
            Ok(own) => return own,
            Err(error) => {
                tracing::warn!(%error, "trying again");
                readiness.waits_for(error.to_string());
            }
        }
        sleep(RETRY).await;
    }
}

async fn try_read(client: &Client, namespace: &str, name: &str) -> Result<OwnPod, OwnPodError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = api.get(name).await.map_err(|source| OwnPodError::Read {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        source: Box::new(source),
    })?;
    taken_from(pod).ok_or_else(|| OwnPodError::Container(name.to_owned()))
}

fn taken_from(pod: Pod) -> Option<OwnPod> {
    let containers = pod.spec?.containers;
    let own = containers
        .into_iter()
        .find(|container| container.name == CONTAINER)?;
    let owners = pod.metadata.owner_references.unwrap_or_default();
    let owner = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true));
    Some(OwnPod {
        image: own.image?,
        pull_policy: own.image_pull_policy?,
        // Another controller than that of the pod must not keep its owner from being deleted.
        owner: owner.map(|owner| OwnerReference {
            controller: None,
            block_owner_deletion: None,
            ..owner
        }),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn image_is_that_of_the_operators_container_and_owner_its_replica_set() {
        let pod = json!({
            "metadata": {"name": "operator-1", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "operator", "uid": "u",
                 "controller": true, "blockOwnerDeletion": true},
            ]},
            "spec": {"containers": [
                {"name": "sidecar", "image": "example.test/mesh:1", "imagePullPolicy": "Always"},
                {"name": "operator", "image": "example.test/peerrelay@sha256:0", "imagePullPolicy": "Never"},
            ]},
        });
        let own = taken_from(serde_json::from_value(pod.clone()).unwrap()).unwrap();
        assert_eq!(own.image, "example.test/peerrelay@sha256:0");
        assert_eq!(own.pull_policy, "Never");
        let owner = own.owner.unwrap();
        assert_eq!(
            (&*owner.name, owner.block_owner_deletion),
            ("operator", None)
        );
        let mut other = pod;
        other["spec"]["containers"][1]["name"] = json!("main");
        assert_eq!(taken_from(serde_json::from_value(other).unwrap()), None);
    }
}
