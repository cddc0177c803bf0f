//! The policy that the tailnet needs, for people and for GitOps.

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    crd::grants::{GrantsOutput, GrantsStatus},
    grants, names,
    operator::{
        objects::checksum,
        plan::{POLICY_DIFF, Plan},
        validate::ValidSpec,
    },
};

/// The policy for people.
const HUJSON: &str = "grants.hujson";
/// The same for programs.
const JSON: &str = "grants.json";
/// Changes with the policy.
const CHECKSUM: &str = "checksum";

/// `None` if the user disables it.
pub(super) fn build(relay: &ValidSpec, plan: &Plan) -> Option<ConfigMap> {
    let status = status(relay)?;
    let policy = relay.policy();
    let data = [
        (HUJSON, grants::hujson(&policy)),
        (JSON, grants::json(&policy)),
        (CHECKSUM, status.checksum),
    ];
    let diff = plan.policy.diff.iter();
    let diff = diff.map(|diff| (POLICY_DIFF, diff.clone()));
    Some(ConfigMap {
        metadata: ObjectMeta {
            name: Some(status.config_map),
            namespace: Some(relay.owner.namespace.clone()),
            labels: Some(names::component_labels(&relay.owner.name, "grants")),
            owner_references: Some(vec![relay.owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(
            data.into_iter()
                .chain(diff)
                .map(|(key, text)| (key.to_owned(), text))
                .collect(),
        ),
        ..ConfigMap::default()
    })
}

/// The reference to the ConfigMap with the policy, for the status.
pub fn status(relay: &ValidSpec) -> Option<GrantsStatus> {
    (relay.grants_output == GrantsOutput::ConfigMap).then(|| GrantsStatus {
        config_map: names::grants(&relay.owner.name),
        checksum: checksum(&grants::json(&relay.policy())),
    })
}
