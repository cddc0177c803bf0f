//! `CredentialExpiring`: node keys of relays and credentials that expire within two weeks.

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

use super::{
    Pass,
    condition::{ConditionUpdate, LONGEST_MESSAGE, cut, some},
};
use crate::{
    names::CREDENTIAL_EXPIRING,
    operator::{
        expiry::{is_soon, node_keys},
        validate::AccountSource,
        view::ClusterView,
    },
};

/// Node keys of relays expire.
pub(super) const NODE_KEY: &str = "NodeKeyExpiring";
/// The API key for the policy expires.
pub(super) const API_KEY: &str = "APIKeyExpiring";
/// Relays that the message names.
const NAMED: usize = 5;

/// `CredentialExpiring`, if something expires.
pub(super) fn update(
    pass: Pass<'_>,
    view: &ClusterView,
    now: Timestamp,
) -> Option<ConditionUpdate> {
    let found = [
        (NODE_KEY, of_relays(view, now)),
        (API_KEY, of_policy(pass, now)),
    ];
    let found = found
        .into_iter()
        .filter_map(|(reason, told)| Some((reason, told?)));
    let (reasons, told): (Vec<_>, Vec<_>) = found.unzip();
    let reason = reasons.first()?;
    let message = cut(&told.join("; "), LONGEST_MESSAGE);
    Some(ConditionUpdate::new(
        CREDENTIAL_EXPIRING,
        "True",
        reason,
        &message,
    ))
}

fn of_relays(view: &ClusterView, now: Timestamp) -> Option<String> {
    let mut keys: Vec<_> = node_keys(&view.reports)
        .filter(|(expiry, _)| is_soon(*expiry, now))
        .collect();
    if keys.is_empty() {
        return None;
    }
    keys.sort();
    let relays = keys
        .iter()
        .map(|(expiry, name)| format!("{name} ({})", day(*expiry)));
    let relays: Vec<_> = relays.collect();
    let relays = some(&relays, NAMED, "relays");
    Some(format!(
        "node keys expire, and control then removes the relays from the tailnet: {relays}; disable key \
         expiry for their devices in the admin console"
    ))
}

fn of_policy(pass: Pass<'_>, now: Timestamp) -> Option<String> {
    let expiry = pass.plan.policy.credential_expires()?;
    let account = pass.spec.policy_access.as_ref()?.account.as_ref().ok()?;
    let AccountSource::ApiKey { secret, .. } = &account.source else {
        return None;
    };
    is_soon(expiry, now).then(|| {
        format!(
            "the API key in Secret {secret} expires on {}, and the policy can then not be read: store \
             another one (headscale apikeys create) in the Secret, which the operator reads within an \
             hour",
            day(expiry)
        )
    })
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).date().to_string()
}

#[cfg(test)]
mod tests;
