//! Merge of a PeerRelay's entries into the policy of its tailnet: what is to be done and what was
//! found. Pure.
//!
//! An [`Exchange`] decides about the requests of one comparison. A [`Schedule`] decides when there
//! is one.

mod exchange;
mod schedule;

pub use self::{
    exchange::{Exchange, Goal, Request},
    schedule::{Order, Schedule, Wish},
};
use k8s_openapi::jiff::Timestamp;

use super::{
    credential::CredentialProblem,
    objects::checksum,
    validate::{PolicyAccess, ValidSpec},
};
use crate::grants::{
    self,
    policy_file::{self, MergeRequest, PolicyFault, PolicyFileError},
};

/// Reason of a policy that has the entries.
pub const UP_TO_DATE: &str = "PolicyUpToDate";
/// Reason of a policy that lacks entries, with `Propose`.
pub const PROPOSED: &str = "PolicyProposed";
/// Reason of a policy whose entries another program has changed or removed.
pub const OVERWRITTEN: &str = "PolicyOverwritten";
const INVALID: &str = "PolicyInvalid";
const ALLOWS_ALL: &str = "PolicyAllowsAll";
const REFUSED: &str = "PolicyRefused";
const CONTESTED: &str = "PolicyContested";
const UNPROTECTED: &str = "PolicyWithoutETag";
/// Reasons of a policy that the operator compares.
pub const REASONS: &[&str] = &[
    UP_TO_DATE,
    PROPOSED,
    OVERWRITTEN,
    INVALID,
    ALLOWS_ALL,
    REFUSED,
    CONTESTED,
    UNPROTECTED,
];

/// Entries that a PeerRelay needs in the policy.
#[derive(Debug, Clone)]
pub struct Entries {
    /// Input of the merge.
    pub request: MergeRequest,
    /// Checksum of the entries, of the access and of the mode.
    pub checksum: String,
}

impl Entries {
    /// Returns the entries that `spec` needs.
    pub fn new(spec: &ValidSpec, access: &PolicyAccess) -> Self {
        let request = MergeRequest {
            regions: spec.regions.iter().map(|r| r.grant.clone()).collect(),
            ..request(access)
        };
        let policy = grants::json(&spec.policy());
        let account = access.account.as_ref().ok();
        let account = account.map(|account| (&account.url, format!("{:?}", account.source)));
        let checksum = checksum(&(
            access.writes,
            account.map(|(url, source)| (url.as_str(), source)),
            &access.tag_owners,
            &access.cluster,
            policy,
        ));
        Self { request, checksum }
    }
}

/// Returns the merge that removes the entries of a PeerRelay, given as `NAMESPACE/NAME`.
pub fn removal(access: &PolicyAccess, peer_relay: String) -> MergeRequest {
    MergeRequest {
        removed: vec![peer_relay],
        ..request(access)
    }
}

fn request(access: &PolicyAccess) -> MergeRequest {
    MergeRequest {
        owners: access.tag_owners.clone(),
        cluster: access.cluster.clone(),
        ..MergeRequest::default()
    }
}

/// Result of one comparison with the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The policy has the entries.
    UpToDate,
    /// The policy lacks entries or has others, and was not written.
    Differs {
        /// Difference in the unified format.
        diff: String,
        /// Reason why the API would refuse the merged policy.
        refused: Option<CredentialProblem>,
    },
    /// The policy could not be compared or written.
    Failed(CredentialProblem),
}

/// Result of one comparison, the review of the policy that it has left, and the expiry of its
/// credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Result of the comparison.
    pub finding: Finding,
    /// Findings about the relay grants of the PeerRelay.
    pub review: Vec<policy_file::Finding>,
    /// Time at which the credential expires, if it is known.
    pub credential_expires: Option<Timestamp>,
}

impl From<Finding> for Comparison {
    fn from(finding: Finding) -> Self {
        Self {
            finding,
            review: Vec::new(),
            credential_expires: None,
        }
    }
}

/// Results of the operator's comparisons for one PeerRelay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Syncing {
    /// Checksum of the entries of the last comparison.
    pub checksum: String,
    /// Result of the last comparison. `None` if this process has made none.
    pub finding: Option<Finding>,
    /// Review of the policy by the last comparison.
    pub review: Vec<policy_file::Finding>,
    /// Time at which the credential of the last comparison expires, if it is known.
    pub credential_expires: Option<Timestamp>,
    /// True if the last comparison found that another program has changed the entries.
    pub is_overwritten: bool,
    /// True if the entries were removed for the deletion of the PeerRelay.
    pub is_removed: bool,
}

impl Syncing {
    /// Returns the result of the last comparison, if it was one with these entries.
    pub fn of(&self, checksum: &str) -> Option<&Finding> {
        let finding = self.finding.as_ref();
        finding.filter(|_| self.checksum == checksum)
    }
}

/// Describes why entries cannot be merged into a policy.
fn unusable(error: &PolicyFileError) -> CredentialProblem {
    let (line, column) = (error.line, error.column);
    let (reason, message) = match &error.fault {
        PolicyFault::FirstGrants => (
            ALLOWS_ALL,
            format!(
                "the tailnet policy was not changed: {}",
                grants::first_grants_warning()
            ),
        ),
        PolicyFault::Duplicate(name, first) => (
            INVALID,
            format!(
                "the tailnet policy was not changed: line {line}, column {column}: the name {name:?} is \
                 already used in line {first}, and programs disagree on which one counts; remove one"
            ),
        ),
        _ => (
            INVALID,
            format!("the tailnet policy was not changed: {error}"),
        ),
    };
    problem(reason, message)
}

fn refused(faults: &[String]) -> CredentialProblem {
    /// Faults that the message quotes.
    const QUOTED: usize = 3;
    let more = match faults.len().saturating_sub(QUOTED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    let quoted: Vec<_> = faults
        .iter()
        .take(QUOTED)
        .map(|fault| line(fault))
        .collect();
    let message = format!(
        "the API refuses the policy with the entries of this PeerRelay, and it was not changed: {}{more}",
        quoted.join("; ")
    );
    problem(REFUSED, message)
}

fn problem(reason: &'static str, message: String) -> CredentialProblem {
    CredentialProblem {
        reason,
        message,
        needs_user: reason != CONTESTED,
    }
}

/// One line of bounded length.
fn line(text: &str) -> String {
    const LONGEST: usize = 240;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}
