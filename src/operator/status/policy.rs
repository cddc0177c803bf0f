//! `PolicySynced`: the entries of the PeerRelay in the policy of the tailnet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    Pass,
    condition::{ConditionUpdate, LONGEST_MESSAGE, cut},
};
use crate::{
    names,
    operator::{
        credential::CredentialProblem,
        plan::POLICY_DIFF,
        policy_sync::{Finding, OVERWRITTEN, PROPOSED, Syncing, UP_TO_DATE},
    },
};

/// Type of the condition.
const KIND: &str = "PolicySynced";

/// `PolicySynced`, if the operator accesses the policy and has compared it once. The last result
/// stays until another comparison: the operator makes none without need.
pub(super) fn update(
    pass: Pass<'_>,
    syncing: &Syncing,
    old: &[Condition],
) -> Option<ConditionUpdate> {
    let entries = pass.plan.policy.entries.as_ref()?;
    let writes = pass.spec.policy_access.as_ref()?.writes;
    match syncing.of(&entries.checksum) {
        Some(Finding::UpToDate) => {
            let message = "the tailnet policy has the entries of this PeerRelay";
            Some(ConditionUpdate::new(KIND, "True", UP_TO_DATE, message))
        }
        Some(Finding::Failed(problem)) => Some(failed(problem)),
        Some(Finding::Differs {
            refused: Some(problem),
            ..
        }) if !writes => Some(failed(problem)),
        Some(Finding::Differs { .. }) if !writes => Some(proposed(pass)),
        Some(Finding::Differs { .. }) if syncing.is_overwritten => {
            let message = "another program has changed or removed entries of this PeerRelay in the \
                           tailnet policy: let it keep them, by peerrelay grants merge in its sources \
                           or by a rule that it ignores them, or set grants.sync to Propose; the operator \
                           writes them again after a wait, which doubles each time up to an hour";
            Some(ConditionUpdate::new(KIND, "False", OVERWRITTEN, message))
        }
        Some(Finding::Differs { .. }) | None => {
            let last = old.iter().find(|condition| condition.type_ == KIND)?;
            let status = match &*last.status {
                "True" => "True",
                _ => "False",
            };
            let (reason, message) = (&last.reason, &last.message);
            Some(ConditionUpdate::new(KIND, status, reason, message))
        }
    }
}

fn proposed(pass: Pass<'_>) -> ConditionUpdate {
    let status = pass.plan.policy.status.as_ref();
    let proposal = status.and_then(|status| status.proposal.as_ref());
    let checksum = proposal.map_or("", |proposal| &*proposal.checksum);
    let message = format!(
        "the tailnet policy lacks entries of this PeerRelay or has outdated ones: merge {POLICY_DIFF} of \
         ConfigMap {} (checksum {checksum}), or set grants.sync to Apply",
        names::grants(&pass.spec.owner.name)
    );
    ConditionUpdate::new(KIND, "False", PROPOSED, &message)
}

fn failed(problem: &CredentialProblem) -> ConditionUpdate {
    let message = cut(&problem.message, LONGEST_MESSAGE);
    ConditionUpdate::new(KIND, "False", problem.reason, &message)
}

#[cfg(test)]
mod tests;
