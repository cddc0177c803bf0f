//! Access of a PeerRelay to its tailnet: its own, or that of the TailnetCredential it refers to.

use kube::{Resource, ResourceExt};
use url::Url;

use super::InvalidRelay;
use crate::{
    crd::{
        PeerRelay, TailnetCredential,
        control_server::ControlServer,
        credential::{CredentialIdentity, OAuthRef, WorkloadIdentity},
        device::DeletionPolicy,
        peer_relay::Tailnet,
    },
    operator::referred_credential::{ReferenceError, Referred},
    tailnet_api::HOSTED_API,
};

/// Access of the relays to their tailnet.
#[derive(Debug, Clone)]
pub struct TailnetAccess {
    /// Credential with which the relays get their auth keys.
    pub credential: Credential,
    /// Identity of the credential.
    pub identity: CredentialIdentity<'static>,
    /// Control server, unless it is tailscale.com's.
    pub control_url: Option<Url>,
    /// Further certificate authorities, PEM.
    pub ca_bundle: Option<String>,
    /// First part of device names.
    pub hostname_prefix: String,
    /// True if devices leave the tailnet when they are offline.
    pub ephemeral: bool,
    /// Credential with which the operator deletes the devices of removed relays. `None` if they are
    /// retained.
    pub deletion_credential: Option<ApiAccount>,
}

/// The source of the relays' auth keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A Secret with an auth key, which nodes mount into the pods.
    AuthKey {
        /// Name of the Secret.
        secret: String,
        /// Key of the Secret.
        key: String,
    },
    /// An account, with which the operator creates an auth key for each relay.
    Api(ApiAccount),
    /// A TailnetCredential that is not known, because there is no cluster.
    Unknown,
}

/// An account of a tailnet's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAccount {
    /// Proof of the account.
    pub source: AccountSource,
    /// URL of the tailnet's API.
    pub url: Url,
    /// Further certificate authorities, PEM.
    pub ca_bundle: Option<String>,
}

/// Proof of an account of a tailnet's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountSource {
    /// A Secret with an OAuth client.
    OAuthClient {
        /// Name of the Secret.
        secret: String,
        /// Namespace of the Secret.
        namespace: SecretNamespace,
    },
    /// A Secret with an API key of Headscale, in the namespace of the PeerRelay.
    ApiKey {
        /// Name of the Secret.
        secret: String,
        /// Key of the Secret.
        key: String,
    },
    /// A token of the operator, which a federated identity trusts.
    WorkloadIdentity {
        /// Client ID of the federated identity.
        client_id: String,
        /// Audience of the token.
        audience: String,
    },
}

impl AccountSource {
    /// Returns the proof of an OAuth client whose Secret is in this namespace.
    pub(super) fn of_oauth(oauth: &OAuthRef, namespace: SecretNamespace) -> Self {
        Self::OAuthClient {
            secret: oauth.secret_name.clone(),
            namespace,
        }
    }

    /// Returns the proof of a federated identity.
    pub(super) fn of_identity(identity: &WorkloadIdentity) -> Self {
        Self::WorkloadIdentity {
            client_id: identity.client_id.clone(),
            audience: identity.audience(),
        }
    }
}

/// Namespace of a Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretNamespace {
    /// The Secret is in the namespace of the PeerRelay.
    PeerRelay,
    /// The Secret is in the namespace of the operator.
    Operator,
}

/// Fields that a PeerRelay and a TailnetCredential have in common.
struct Fields<'a> {
    oauth: Option<&'a OAuthRef>,
    workload_identity: Option<&'a WorkloadIdentity>,
    control_url: Option<&'a String>,
    api_url: Option<&'a String>,
    ca_bundle: Option<&'a String>,
    secrets: SecretNamespace,
}

impl<'a> Fields<'a> {
    fn of_relay(tailnet: &'a Tailnet) -> Self {
        Self {
            oauth: tailnet.oauth.as_ref(),
            workload_identity: tailnet.workload_identity.as_ref(),
            control_url: tailnet.control_url.as_ref(),
            api_url: tailnet.api_url.as_ref(),
            ca_bundle: tailnet.ca_bundle.as_ref(),
            secrets: SecretNamespace::PeerRelay,
        }
    }

    fn of_credential(credential: &'a TailnetCredential) -> Self {
        let spec = &credential.spec;
        Self {
            oauth: spec.oauth.as_ref(),
            workload_identity: spec.workload_identity.as_ref(),
            control_url: spec.control_url.as_ref(),
            api_url: spec.api_url.as_ref(),
            ca_bundle: spec.ca_bundle.as_ref(),
            secrets: SecretNamespace::Operator,
        }
    }

    fn control_url(&self) -> Result<Option<Url>, InvalidRelay> {
        let url = self.control_url.map(|text| Url::parse(text)).transpose();
        url.map_err(InvalidRelay::ControlUrl)
    }

    /// Returns the account with which relays get their auth keys.
    fn account(&self) -> Result<ApiAccount, InvalidRelay> {
        let source = match (self.oauth, self.workload_identity) {
            (Some(oauth), None) => AccountSource::of_oauth(oauth, self.secrets),
            (None, Some(identity)) => AccountSource::of_identity(identity),
            _ => return Err(InvalidRelay::Credential),
        };
        self.account_with(source)
    }

    /// Returns the account with this proof. The API of another control server than tailscale.com's has
    /// its URL.
    fn account_with(&self, source: AccountSource) -> Result<ApiAccount, InvalidRelay> {
        let own = self.api_url.map(|text| Url::parse(text)).transpose();
        let own = own.map_err(InvalidRelay::ApiUrl)?;
        let control_url = self.control_url()?;
        let hosted = || {
            HOSTED_API
                .parse()
                .expect("the URL of the hosted API is valid")
        };
        let server = ControlServer::of(self.control_url.map(String::as_str));
        let url = own.unwrap_or_else(|| match server {
            ControlServer::Hosted => hosted(),
            // Headscale has its API at the URL of the control server.
            ControlServer::Own(_) => control_url.unwrap_or_else(hosted),
        });
        Ok(ApiAccount {
            source,
            url,
            ca_bundle: self.ca_bundle.cloned(),
        })
    }
}

/// Validates the access of `relay` to its tailnet.
///
/// # Errors
/// The first fault of the PeerRelay or of its TailnetCredential.
pub(super) fn access(
    relay: &PeerRelay,
    referred: &Referred,
) -> Result<TailnetAccess, InvalidRelay> {
    let tailnet = &relay.spec.tailnet;
    let namespace = relay.namespace().unwrap_or_default();
    let (credential, control_url, ca_bundle) = match &tailnet.credentials_ref {
        None => of_relay(tailnet)?,
        Some(_) if has_own(tailnet) => return Err(InvalidRelay::Credential),
        // Nothing of the PeerRelay applies: its URLs must not receive the secret of others.
        Some(reference) => match referred.for_namespace(&reference.name, &namespace)? {
            None => (Credential::Unknown, None, None),
            Some(found) => of_credential(found)?,
        },
    };
    let prefix = tailnet.hostname_prefix.clone();
    Ok(TailnetAccess {
        deletion_credential: for_deletion(tailnet, &credential).cloned(),
        credential,
        identity: tailnet.credential(&namespace).into_owned(),
        control_url,
        ca_bundle,
        hostname_prefix: prefix.unwrap_or_else(|| relay.name_any()),
        ephemeral: tailnet.ephemeral,
    })
}

/// Credential, control server and certificate authorities.
type Parts = (Credential, Option<Url>, Option<String>);

fn of_relay(tailnet: &Tailnet) -> Result<Parts, InvalidRelay> {
    let fields = Fields::of_relay(tailnet);
    let control_url = fields.control_url()?;
    let credential = match &tailnet.auth_key {
        Some(_) if fields.oauth.is_some() || fields.workload_identity.is_some() => {
            return Err(InvalidRelay::Credential);
        }
        Some(auth_key) => Credential::AuthKey {
            secret: auth_key.secret_name.clone(),
            key: auth_key.key().to_owned(),
        },
        None => Credential::Api(fields.account()?),
    };
    Ok((credential, control_url, tailnet.ca_bundle.clone()))
}

fn of_credential(found: &TailnetCredential) -> Result<Parts, InvalidRelay> {
    let fields = Fields::of_credential(found);
    let parts = (|| {
        let account = fields.account()?;
        let ca_bundle = account.ca_bundle.clone();
        Ok((Credential::Api(account), fields.control_url()?, ca_bundle))
    })();
    parts.map_err(|problem| invalid(found, &problem))
}

/// Makes the error of a TailnetCredential that cannot be used.
fn invalid(found: &TailnetCredential, problem: &InvalidRelay) -> InvalidRelay {
    let problem = match problem {
        InvalidRelay::ControlUrl(error) => {
            format!(
                "spec.controlURL is not a URL: {error}; write it as https://control.example.net"
            )
        }
        InvalidRelay::ApiUrl(error) => {
            format!("spec.apiURL is not a URL: {error}; write it as https://api.example.net")
        }
        _ => "spec must have either oauth or workloadIdentity".to_owned(),
    };
    let name = found.meta().name.clone().unwrap_or_default();
    ReferenceError::Invalid { name, problem }.into()
}

/// Returns the account of the API of the tailnet with a proof that is not the one of the relays. `None`
/// if the TailnetCredential is not known, because there is no cluster.
///
/// # Errors
/// A URL is invalid, or the TailnetCredential cannot be used.
pub(super) fn account_with(
    relay: &PeerRelay,
    referred: &Referred,
    source: AccountSource,
) -> Result<Option<ApiAccount>, InvalidRelay> {
    let tailnet = &relay.spec.tailnet;
    let Some(reference) = &tailnet.credentials_ref else {
        return Fields::of_relay(tailnet).account_with(source).map(Some);
    };
    let namespace = relay.namespace().unwrap_or_default();
    let Some(found) = referred.for_namespace(&reference.name, &namespace)? else {
        return Ok(None);
    };
    let account = Fields::of_credential(found).account_with(source);
    account
        .map(Some)
        .map_err(|problem| invalid(found, &problem))
}

fn has_own(tailnet: &Tailnet) -> bool {
    tailnet.auth_key.is_some() || tailnet.oauth.is_some() || tailnet.workload_identity.is_some()
}

/// Returns the credential with which devices of removed relays are deleted, also of a PeerRelay that
/// is invalid for another reason. `None` if they are retained, or if no credential can delete them.
/// It is an error if the credential is that of a TailnetCredential which cannot be used.
pub fn deletion_credential(
    relay: &PeerRelay,
    referred: &Referred,
) -> Option<Result<ApiAccount, ReferenceError>> {
    let tailnet = &relay.spec.tailnet;
    match access(relay, referred) {
        Ok(access) => access.deletion_credential.map(Ok),
        Err(InvalidRelay::Reference(error)) if deletes(tailnet) => Some(Err(error)),
        Err(_) => None,
    }
}

fn for_deletion<'a>(tailnet: &Tailnet, credential: &'a Credential) -> Option<&'a ApiAccount> {
    match credential {
        Credential::Api(account) if deletes(tailnet) => Some(account),
        _ => None,
    }
}

fn deletes(tailnet: &Tailnet) -> bool {
    matches!(tailnet.deletion_policy, Some(DeletionPolicy::Delete) | None)
}

#[cfg(test)]
mod tests;
