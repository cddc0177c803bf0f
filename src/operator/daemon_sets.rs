//! Properties of a DaemonSet of relays. Pure.

use k8s_openapi::{
    api::{apps::v1::DaemonSet, core::v1::Pod},
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use kube::ResourceExt;

use crate::names;

/// Returns whether a DaemonSet runs no pod because its PeerRelay is not enabled.
pub fn is_off(set: &DaemonSet) -> bool {
    let spec = set.spec.as_ref();
    let pod = spec.and_then(|spec| spec.template.spec.as_ref());
    let selector = pod.and_then(|pod| pod.node_selector.as_ref());
    selector.is_some_and(|selector| selector.contains_key(names::OFF_LABEL))
}

/// Returns whether the DaemonSet controller has observed the last change of `set`.
pub fn is_observed(set: &DaemonSet) -> bool {
    let observed = set.status.as_ref().and_then(|s| s.observed_generation);
    set.metadata.generation.is_none() || observed == set.metadata.generation
}

/// Returns whether all pods of a DaemonSet are ready and have its newest template.
pub fn is_ready(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
            && status.number_ready >= status.desired_number_scheduled
    })
}

/// The number of relays that Kubernetes has not replaced yet.
pub fn outdated(set: &DaemonSet) -> usize {
    let Some(status) = &set.status else { return 0 };
    // The field is absent when it is 0.
    let updated = status.updated_number_scheduled.unwrap_or(0);
    usize::try_from(status.desired_number_scheduled - updated).unwrap_or(0)
}

/// Returns the number of relays of a region that may be unavailable at a time. `None` if the user
/// replaces them manually.
pub fn max_unavailable(set: &DaemonSet) -> Option<usize> {
    let strategy = set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    if strategy.is_some_and(|strategy| strategy.type_.as_deref() == Some("OnDelete")) {
        return None;
    }
    let most = strategy
        .and_then(|strategy| strategy.rolling_update.as_ref())
        .and_then(|rolling| rolling.max_unavailable.as_ref());
    match most {
        Some(IntOrString::Int(most)) => Some(usize::try_from(*most).unwrap_or(1).max(1)),
        _ => Some(1),
    }
}

/// The only node of a DaemonSet. `None` when it has the relays of all nodes that fit.
pub fn only_node(set: &DaemonSet) -> Option<&String> {
    set.annotations().get(names::NODE_ANNOTATION)
}

/// The region of a DaemonSet's relays.
pub fn region(set: &DaemonSet) -> Option<&String> {
    set.labels().get(names::REGION_LABEL)
}

/// Returns whether `pod` is one of this DaemonSet of `region`.
pub fn has_pod(set: &DaemonSet, region: &str, pod: &Pod) -> bool {
    let same_set = pod.labels().get(names::RELAY_LABEL) == set.labels().get(names::RELAY_LABEL);
    let label = pod.labels().get(names::REGION_LABEL);
    same_set && label.is_some_and(|label| label == region)
}

/// Returns whether a DaemonSet belongs to the PeerRelay of this reference.
pub fn is_owned(set: &DaemonSet, owner: &OwnerReference) -> bool {
    let mut owners = set.owner_references().iter();
    owners.any(|found| found.uid == owner.uid)
}
