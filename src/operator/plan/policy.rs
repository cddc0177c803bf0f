//! Entries of the tailnet policy, and what the status records about them. Pure.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    crd::grants::{PolicyFinding, PolicyProposal, PolicyStatus},
    grants::policy_file,
    names,
    operator::{
        objects::checksum,
        policy_sync::{Entries, Finding, Syncing},
        validate::ValidSpec,
        view::ClusterView,
    },
};

/// Key of the ConfigMap's entry with the difference.
pub const DIFF: &str = "policy.diff";
/// Longest difference in the status, in characters.
const LONGEST_DIFF: usize = 4_096;
/// Findings of the review in the status.
const MOST_FINDINGS: usize = 16;
/// Longest message of a finding in the status, in characters.
const LONGEST_FINDING: usize = 512;

/// The policy of the tailnet, as far as `grants.sync` is concerned with it.
#[derive(Debug, Clone, Default)]
pub struct PolicyPlan {
    /// Entries that the policy needs. `None` if the operator does not access it.
    pub entries: Option<Entries>,
    /// Record for the status. `None` if the operator does not access the policy.
    pub status: Option<PolicyStatus>,
    /// Difference that is proposed.
    pub diff: Option<String>,
}

impl PolicyPlan {
    /// Returns whether the policy may contain entries that the deletion of the PeerRelay removes.
    pub fn has_entries(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.has_entries)
    }

    /// Returns whether the review of the policy has findings.
    pub fn has_findings(&self) -> bool {
        let status = self.status.as_ref();
        status.is_some_and(|status| !status.findings.is_empty())
    }

    /// Returns the time at which the credential for the policy expires, if it is known.
    pub fn credential_expires(&self) -> Option<Timestamp> {
        let expires = self.status.as_ref()?.credential_expires.as_ref()?;
        Some(expires.0)
    }

    /// Returns whether the last comparison, of this process or an earlier one, was one with the
    /// entries.
    pub fn is_known(&self) -> bool {
        let checksum = self.entries.as_ref().map(|entries| &entries.checksum);
        self.status.as_ref().map(|s| &s.checksum) == checksum
    }
}

/// Plans the entries of a PeerRelay from the results of earlier comparisons.
pub(super) fn plan(spec: &ValidSpec, view: &ClusterView) -> PolicyPlan {
    let Some(access) = &spec.policy_access else {
        return PolicyPlan::default();
    };
    let entries = Entries::new(spec, access);
    let before = view.policy.clone().unwrap_or_default();
    let is_same = before.checksum == entries.checksum;
    let finding = view.syncing.of(&entries.checksum);
    let last = is_same.then_some(&before);
    let (findings, credential_expires) = observed(finding, &view.syncing, last);
    let mut status = PolicyStatus {
        has_entries: access.writes && before.has_entries,
        checksum: before.checksum,
        proposal: None,
        findings,
        credential_expires,
    };
    let mut diff = None;
    match (finding, access.writes) {
        (Some(Finding::UpToDate), writes) => {
            status.checksum.clone_from(&entries.checksum);
            status.has_entries = writes;
        }
        // They are about to be written: the record is stored before.
        (Some(Finding::Differs { .. }), true) => status.has_entries = true,
        (Some(Finding::Differs { diff: found, .. }), false) => {
            status.checksum.clone_from(&entries.checksum);
            status.proposal = Some(proposal(found));
            diff = Some(found.clone());
        }
        (Some(Finding::Failed(_)) | None, false) if is_same && before.proposal.is_some() => {
            let config_map = names::grants(&spec.owner.name);
            let text = view.config_map_text(&config_map, DIFF);
            match text {
                Some(text) => {
                    diff = Some(text.to_owned());
                    status.proposal = before.proposal;
                }
                // A difference that was deleted is found again.
                None => status.checksum.clear(),
            }
        }
        // After a restart, the policy is compared again.
        (Some(Finding::Failed(_)), _) => status.checksum.clear(),
        (None, _) => {}
    }
    PolicyPlan {
        entries: Some(entries),
        status: Some(status),
        diff,
    }
}

fn proposal(diff: &str) -> PolicyProposal {
    PolicyProposal {
        checksum: checksum(&diff),
        diff: diff.chars().take(LONGEST_DIFF).collect(),
    }
}

/// Returns the findings and the expiry of the credential: those of this comparison, or else of the last
/// one with the same entries.
fn observed(
    finding: Option<&Finding>,
    syncing: &Syncing,
    last: Option<&PolicyStatus>,
) -> (Vec<PolicyFinding>, Option<Time>) {
    match (finding, last) {
        (Some(Finding::UpToDate | Finding::Differs { .. }), _) => {
            let findings = syncing.review.iter().take(MOST_FINDINGS);
            let findings = findings.map(described).collect();
            (findings, syncing.credential_expires.map(Time))
        }
        (Some(Finding::Failed(_)) | None, Some(last)) => {
            (last.findings.clone(), last.credential_expires.clone())
        }
        (Some(Finding::Failed(_)) | None, None) => (Vec::new(), None),
    }
}

fn described(finding: &policy_file::Finding) -> PolicyFinding {
    PolicyFinding {
        line: finding.line.and_then(|line| i64::try_from(line).ok()),
        kind: finding.kind.as_str().to_owned(),
        message: finding.message.chars().take(LONGEST_FINDING).collect(),
    }
}

#[cfg(test)]
mod tests;
