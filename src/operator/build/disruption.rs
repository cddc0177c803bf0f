//! The PodDisruptionBudget of a region: one relay may be evicted at a time.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::{
    names,
    operator::{plan::Region, validate::ValidSpec},
};

/// A budget, for a region of several relays: with one, it would only keep nodes from being drained.
pub(super) fn build(relay: &ValidSpec, region: Region<'_>) -> Option<PodDisruptionBudget> {
    let chosen = region.plan.nodes.chosen.as_ref().map(Vec::len);
    let relays = i32::try_from(chosen.unwrap_or(region.plan.nodes.fitting)).unwrap_or(i32::MAX);
    (relays > 1).then(|| PodDisruptionBudget {
        metadata: metadata(relay, region),
        spec: Some(PodDisruptionBudgetSpec {
            // Kubernetes counts the pods of DaemonSets for this form only.
            min_available: Some(IntOrString::Int(relays - 1)),
            selector: Some(LabelSelector {
                match_labels: Some(names::selector(&relay.owner.name, &region.name)),
                match_expressions: None,
            }),
            // By default, a relay that is not ready cannot be evicted, and would keep its node from being
            // drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
