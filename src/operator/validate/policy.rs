//! Access of the operator to the policy of the tailnet.

use super::{
    AccountSource, ApiAccount, InvalidRelay, SecretNamespace, tailnet_access::account_with,
};
use crate::{
    crd::{PeerRelay, grants::GrantsSync},
    operator::referred_credential::{ReferenceError, Referred},
};

/// Access of the operator to the policy of the tailnet, with a credential of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyAccess {
    /// True if the operator writes the policy, and false if it proposes changes.
    pub writes: bool,
    /// Account of the API, or the reason why it is not known.
    pub account: Result<ApiAccount, ReferenceError>,
    /// Owners of the relays' tags. `None` keeps those of the policy.
    pub tag_owners: Option<Vec<String>>,
    /// Name of the cluster in the comments above the entries.
    pub cluster: Option<String>,
}

/// Returns the access to the policy, also of a PeerRelay that is invalid for another reason.
pub fn policy_access(relay: &PeerRelay, referred: &Referred) -> Option<PolicyAccess> {
    access(relay, referred).ok().flatten()
}

/// Returns the access to the policy, if the operator accesses it.
pub(super) fn access(
    relay: &PeerRelay,
    referred: &Referred,
) -> Result<Option<PolicyAccess>, InvalidRelay> {
    let grants = &relay.spec.grants;
    if grants.sync == GrantsSync::Off {
        return Ok(None);
    }
    let source = match (&grants.oauth, &grants.workload_identity, &grants.api_key) {
        (Some(oauth), None, None) => AccountSource::of_oauth(oauth, SecretNamespace::PeerRelay),
        (None, None, Some(api_key)) => AccountSource::ApiKey {
            secret: api_key.secret_name.clone(),
            key: api_key.key().to_owned(),
        },
        (None, Some(identity), None) => AccountSource::of_identity(identity),
        _ => return Err(InvalidRelay::PolicyCredential),
    };
    let account = match account_with(relay, referred, source) {
        Ok(None) => return Ok(None),
        Ok(Some(account)) => Ok(account),
        Err(InvalidRelay::Reference(error)) => Err(error),
        Err(error) => return Err(error),
    };
    Ok(Some(PolicyAccess {
        writes: grants.sync == GrantsSync::Apply,
        account,
        tag_owners: (!grants.tag_owners.is_empty()).then(|| grants.tag_owners.clone()),
        cluster: grants.cluster.clone(),
    }))
}
