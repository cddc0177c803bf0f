//! `CredentialAccepted`: the result of creating auth keys with the credential of the PeerRelay.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Pass, condition::ConditionUpdate};
use crate::operator::{
    credential::{ACCEPTED, Issuing, REASONS},
    validate::Credential,
};

/// Type of the condition.
const KIND: &str = "CredentialAccepted";

/// `CredentialAccepted`, if the operator creates the auth keys and has done so once. A credential
/// that was accepted stays so until another attempt: the operator makes none without need.
pub(super) fn update(
    pass: Pass<'_>,
    issuing: &Issuing,
    old: &[Condition],
) -> Option<ConditionUpdate> {
    if matches!(pass.spec.tailnet.credential, Credential::AuthKey { .. }) {
        return None;
    }
    let is_waiting = is_waiting(pass);
    match &issuing.last {
        Some(Err(problem)) if is_waiting => {
            let (reason, message) = (problem.reason, &problem.message);
            Some(ConditionUpdate::new(KIND, "False", reason, message))
        }
        Some(Ok(())) => {
            let message = "the operator creates the auth keys that relays request";
            Some(ConditionUpdate::new(KIND, "True", ACCEPTED, message))
        }
        _ => {
            let last = old.iter().find(|condition| condition.type_ == KIND)?;
            match &*last.status {
                "True" => Some(("True", last)),
                "False" if is_waiting => Some(("False", last)),
                _ => None,
            }
            .map(|(status, last)| ConditionUpdate::new(KIND, status, &last.reason, &last.message))
        }
    }
}

/// `CredentialAccepted` of a PeerRelay that cannot be reconciled, if the reason is its credential.
pub(super) fn refused(reason: &str, message: &str) -> Option<ConditionUpdate> {
    let is_credential = REASONS.contains(&reason);
    is_credential.then(|| ConditionUpdate::new(KIND, "False", reason, message))
}

/// Returns whether a relay waits for an auth key.
pub(super) fn is_waiting(pass: Pass<'_>) -> bool {
    let mut regions = pass.plan.regions.iter();
    regions.any(|region| !region.keys.wanted.is_empty())
}
