//! Table of the kinds of objects that a PeerRelay owns.
//!
//! Stores, the objects to apply, the order of applying, pruning and waiting follow from
//! `child_kinds`: a further kind is one line there and a builder.

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Resource,
    core::{ApiResource, GroupVersionKind},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Calls a macro with every kind in the order in which objects are applied: relays come last, so
/// that they start with their configuration and permissions in place.
///
/// An object waits while an object of its region and of a kind that it `needs` is refused.
macro_rules! child_kinds {
    ($use:ident) => {
        $use! {
            /// Identities of the relays towards the API server.
            service_accounts: ServiceAccount, needs [];
            /// Permissions of these identities.
            roles: Role, needs [];
            /// Bindings of the permissions to the identities. One without its role is refused too.
            role_bindings: RoleBinding, needs [Role];
            /// Configuration of the relays.
            config_maps: ConfigMap, needs [];
            /// Services that lead clients and Prometheus to the relays.
            services: Service, needs [];
            /// Rules for traffic to and from relays on the pod network.
            network_policies: NetworkPolicy, needs [];
            /// Numbers of relays that may be evicted at a time.
            disruption_budgets: PodDisruptionBudget, needs [];
            /// Sets of relays: one for a region, or one for each of its chosen nodes.
            daemon_sets: DaemonSet, needs [ServiceAccount, Role, RoleBinding, ConfigMap];
        }
    };
}
pub(super) use child_kinds;

/// A kind of objects that PeerRelays own.
pub trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Kinds that an object of the same region needs; see `child_kinds`.
    fn needs() -> Vec<String>;
}

macro_rules! implement_child {
    ($($(#[$doc:meta])* $field:ident: $kind:ident, needs [$($need:ident),*];)*) => {
        $(impl Child for $kind {
            fn needs() -> Vec<String> {
                vec![$(kind::<$need>()),*]
            }
        })*
    };
}
child_kinds!(implement_child);

/// The name of a kind, such as `DaemonSet`.
pub fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}

/// Group of prometheus-operator's kinds.
pub const MONITORING_GROUP: &str = "monitoring.coreos.com";

/// Kind of prometheus-operator, which may not be installed in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MonitoringKind {
    /// Scrapes the relays' metrics.
    ServiceMonitor,
    /// Alerts about the relays.
    PrometheusRule,
}

impl MonitoringKind {
    /// All kinds, in the order in which objects are applied.
    pub const ALL: [Self; 2] = [Self::ServiceMonitor, Self::PrometheusRule];

    /// The name of the custom resource definition.
    pub const fn definition(self) -> &'static str {
        match self {
            Self::ServiceMonitor => "servicemonitors.monitoring.coreos.com",
            Self::PrometheusRule => "prometheusrules.monitoring.coreos.com",
        }
    }

    /// The group, version, kind and plural by which the API server serves it.
    pub fn resource(self) -> ApiResource {
        let kind = match self {
            Self::ServiceMonitor => "ServiceMonitor",
            Self::PrometheusRule => "PrometheusRule",
        };
        let (plural, _) = self
            .definition()
            .split_once('.')
            .expect("a definition has a group");
        let kind = GroupVersionKind::gvk(MONITORING_GROUP, "v1", kind);
        ApiResource::from_gvk_with_plural(&kind, plural)
    }
}
