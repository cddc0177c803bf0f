//! The objects of one PeerRelay, before and after they are applied.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::DynamicObject;
use serde::Serialize;

use super::{
    kinds::{MonitoringKind, child_kinds},
    refusal::Summary,
};
use crate::names;

/// The objects of a PeerRelay in one stage: [`Prepared`] or [`Applied`].
#[derive(Debug, Clone)]
pub struct Objects<S> {
    /// PeerRelay that owns them.
    pub owner: Owner,
    /// Objects that do not change in this pass.
    pub deferred: Deferred,
    /// The objects to apply, or the result of applying them.
    pub stage: S,
}

/// The identity of a PeerRelay, which its objects refer to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Owner {
    /// Name of the PeerRelay.
    pub name: String,
    /// Namespace of the PeerRelay and of its objects.
    pub namespace: String,
    /// Reference that makes the garbage collector remove objects with their PeerRelay.
    pub reference: OwnerReference,
}

/// Objects that are neither applied nor removed in this pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deferred {
    /// Names of the objects, whether they exist or not.
    pub names: Vec<String>,
    /// Sentence about relays that wait to be replaced. `None` when no relay waits.
    pub message: Option<String>,
    /// Time after which the PeerRelay is reconciled again although nothing has changed.
    pub recheck_after: Option<Duration>,
}

macro_rules! define_prepared {
    ($($(#[$doc:meta])* $field:ident: $kind:ident, needs [$($need:ident),*];)*) => {
        /// All objects that should exist.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Prepared {
            $($(#[$doc])* pub $field: Vec<$kind>,)*
            /// Objects of prometheus-operator's kinds, one entry for each kind.
            pub monitoring: Vec<MonitoringObject>,
        }

        impl Prepared {
            /// The objects of both, kind by kind.
            pub fn join(mut self, other: Self) -> Self {
                $(self.$field.extend(other.$field);)*
                self.monitoring.extend(other.monitoring);
                self
            }
        }
    };
}
child_kinds!(define_prepared);

/// The object of a kind of prometheus-operator.
#[derive(Debug, Clone, PartialEq)]
pub struct MonitoringObject {
    /// Kind of the object.
    pub kind: MonitoringKind,
    /// True if the kind is installed in the cluster.
    pub is_known: bool,
    /// Object to apply. `None` if it should not exist.
    pub object: Option<DynamicObject>,
}

/// The result of applying [`Prepared`] objects.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// Numbers of changed objects.
    pub changes: Changes,
    /// Objects that the API server refused in this pass, or in an earlier pass and not retried yet.
    pub refused: Option<Summary>,
    /// True if the status should report the refusals. Temporary failures are first retried.
    pub report_refused: bool,
    /// Time until the next attempt to apply a refused object.
    pub pause: Option<Duration>,
    /// Services that were removed and will be created again.
    pub replaced: Vec<Replaced>,
    /// Names of the DaemonSets that were created or changed. The cluster view may still show their
    /// previous state.
    pub changed_sets: BTreeSet<String>,
}

/// Numbers of objects that a pass changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects created or changed.
    pub applied: usize,
    /// Objects removed.
    pub pruned: usize,
}

/// Service that was removed and will be created again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Name of the Service.
    pub name: String,
    /// Field that Kubernetes does not allow to change.
    pub field: &'static str,
}

/// Computes a short checksum of anything that serializes.
pub fn checksum(value: &impl Serialize) -> String {
    let bytes = serde_json::to_vec(value).expect("Kubernetes objects are plain data");
    names::digest(bytes, 8)
}
