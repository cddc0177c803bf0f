//! Facts about a cluster, as far as the caller may read them.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::Timestamp,
};
use kube::api::DynamicObject;

use crate::crd::{PeerRelay, RelayNode};

/// Objects of one kind, or the reason why they are unknown.
pub type Known<T> = Result<Vec<T>, Unread>;

/// Reason why objects could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// The caller may not read them.
    #[error("you may not list {resource} {}", place(namespace.as_deref()))]
    Forbidden {
        /// Plural of the kind, with its group.
        resource: String,
        /// Namespace, if it is about one.
        namespace: Option<String>,
    },
    /// The cluster does not have the kind.
    #[error("the cluster does not have the kind")]
    NoSuchKind,
    /// The request failed for another reason.
    #[error("{resource} cannot be read: {error}")]
    Failed {
        /// Plural of the kind, with its group.
        resource: String,
        /// Error of the request.
        error: String,
    },
}

/// Returns the part of a sentence that says in which namespaces.
fn place(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("in namespace {namespace}"),
        None => "in all namespaces".to_owned(),
    }
}

/// Facts about a cluster at one time.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Time of the check.
    pub now: Timestamp,
    /// Version of this program.
    pub version: String,
    /// Version of the API server, as major and minor number.
    pub kubernetes: (u32, u32),
    /// Custom resource definitions of this program that the cluster has.
    pub definitions: Known<CustomResourceDefinition>,
    /// Resources that the caller may not create, of those that an installation needs. It is empty
    /// if the operator is installed.
    pub not_creatable: Vec<String>,
    /// Deployments of operators.
    pub operators: Known<Deployment>,
    /// Pods of operators.
    pub operator_pods: Known<Pod>,
    /// PeerRelays in the namespaces that are checked.
    pub relays: Known<PeerRelay>,
    /// RelayNodes in these namespaces.
    pub relay_nodes: Known<RelayNode>,
    /// Pods of relays in these namespaces.
    pub relay_pods: Known<Pod>,
    /// Namespaces with PeerRelays.
    pub namespaces: Known<Namespace>,
    /// ServiceMonitors of PeerRelays.
    pub service_monitors: Known<DynamicObject>,
    /// All servers of prometheus-operator.
    pub prometheuses: Known<DynamicObject>,
    /// All agents of prometheus-operator.
    pub prometheus_agents: Known<DynamicObject>,
}

impl Facts {
    /// Returns whether the definitions are installed, so that there can be PeerRelays.
    pub(super) fn is_installed(&self) -> bool {
        !matches!(self.relays, Err(Unread::NoSuchKind))
    }
}
