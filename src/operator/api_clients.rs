//! Clients of the APIs of tailnets, with the credentials of PeerRelays.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use kube_runtime::reflector::ObjectRef;
use url::Url;

use super::{
    credential::CredentialError,
    own_tokens,
    referred_credential::ReferenceError,
    validate::{AccountSource, ApiAccount, SecretNamespace},
};
use crate::{
    crd::PeerRelay,
    dial::Dialer,
    tailnet_api::{ApiCredential, FederatedClient, IdentityToken, OAuthClient, TailnetApi},
};

/// Keys of the Secret with an OAuth client.
const CLIENT_ID: &str = "client_id";
const CLIENT_SECRET: &str = "client_secret";

/// The access of a PeerRelay to the API of its tailnet.
#[derive(Debug, Clone)]
pub struct ApiAccess {
    /// PeerRelay with this access.
    pub relay: ObjectRef<PeerRelay>,
    /// Namespace of the PeerRelay.
    pub namespace: String,
    /// The account of the API, or the reason why it is not known.
    pub account: Result<ApiAccount, ReferenceError>,
}

/// API clients of PeerRelays, each with its access token. Clones share them.
#[derive(Clone)]
pub struct ApiClients {
    client: Client,
    /// Directory with tokens of the operator.
    tokens: Arc<Path>,
    /// Namespace of the operator, if it is known.
    namespace: Option<Arc<str>>,
    last: Arc<Mutex<HashMap<ObjectRef<PeerRelay>, CachedApi>>>,
}

/// An API client, and what it was made of.
struct CachedApi {
    version: Version,
    account: ApiAccount,
    api: Arc<TailnetApi>,
}

/// Version of a credential, which changes if the credential does.
#[derive(PartialEq)]
enum Version {
    /// Version of a Secret.
    Secret(Option<String>),
    /// Token, which the kubelet replaces.
    Token(IdentityToken),
}

impl ApiClients {
    /// Makes a set that reads Secrets with `client`, and tokens of the operator in a directory.
    /// `namespace` is that of the operator.
    pub fn new(client: Client, tokens: Arc<Path>, namespace: Option<Arc<str>>) -> Self {
        Self {
            client,
            tokens,
            namespace,
            last: Arc::default(),
        }
    }

    /// Returns the API client of a PeerRelay: the last one, unless the credential or the PeerRelay has
    /// changed.
    ///
    /// # Errors
    /// There is no credential, it cannot be read, or the authorities cannot be used.
    pub async fn get(&self, access: &ApiAccess) -> Result<Arc<TailnetApi>, CredentialError> {
        let account = access.account.as_ref().map_err(Clone::clone)?;
        let (version, credential) = self.credential(access, &account.source).await?;
        if let Some(api) = self.last(access, |last| last.version == version) {
            return Ok(api);
        }
        let dialer = Dialer::with_authorities(account.ca_bundle.as_deref())?;
        let url = Url::clone(&account.url);
        let api = Arc::new(TailnetApi::new(url, credential, dialer));
        let cached = CachedApi {
            version,
            account: account.clone(),
            api: api.clone(),
        };
        self.lock().insert(access.relay.clone(), cached);
        Ok(api)
    }

    async fn credential(
        &self,
        access: &ApiAccess,
        source: &AccountSource,
    ) -> Result<(Version, ApiCredential), CredentialError> {
        match source {
            AccountSource::OAuthClient {
                secret: name,
                namespace,
            } => {
                let namespace = match namespace {
                    SecretNamespace::PeerRelay => Some(&*access.namespace),
                    SecretNamespace::Operator => self.namespace.as_deref(),
                };
                let unknown = || CredentialError::NamespaceUnknown(name.clone());
                let secret = self.secret(namespace.ok_or_else(unknown)?, name).await?;
                let client = oauth_client(&secret, name)?;
                let version = Version::Secret(secret.metadata.resource_version);
                Ok((version, ApiCredential::OAuth(client)))
            }
            AccountSource::ApiKey { secret: name, key } => {
                let missing = || CredentialError::ApiKeyMissing {
                    secret: name.clone(),
                    key: key.clone(),
                };
                let secret = match self.secret(&access.namespace, name).await {
                    Err(CredentialError::SecretMissing { .. }) => return Err(missing()),
                    secret => secret?,
                };
                let api_key = text(&secret, key).ok_or_else(missing)?;
                let version = Version::Secret(secret.metadata.resource_version);
                Ok((version, ApiCredential::ApiKey(api_key.into())))
            }
            AccountSource::WorkloadIdentity {
                client_id,
                audience,
            } => {
                let token = own_tokens::find(&self.tokens, audience)
                    .ok_or_else(|| CredentialError::TokenMissing(audience.clone()))?;
                let version = Version::Token(token.clone());
                let id = client_id.clone();
                let client = FederatedClient { id, token };
                Ok((version, ApiCredential::Federated(client)))
            }
        }
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Secret, CredentialError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let secret = secrets.get(name).await;
        secret.map_err(|error| CredentialError::of_secret(error, name, namespace))
    }

    /// Returns the API client as [`Self::get`] does. If the TailnetCredential or the Secret was
    /// deleted, or the operator may no longer read the Secret, the last client is returned: all of
    /// them may be deleted together with the PeerRelay, and a namespace that is being deleted may
    /// lose the Secret and the operator's rights before its PeerRelays. The last client is forgotten
    /// if the TailnetCredential does not allow the namespace, so that its later deletion does not
    /// allow it.
    ///
    /// # Errors
    /// As [`Self::get`], if there is no last client.
    pub async fn get_or_last(
        &self,
        access: &ApiAccess,
    ) -> Result<Arc<TailnetApi>, CredentialError> {
        match self.get(access).await {
            Err(error) if error.is_gone() => self.last(access, |_| true).ok_or(error),
            Err(error @ CredentialError::Reference(ReferenceError::NotAllowed { .. })) => {
                self.forget(&access.relay);
                Err(error)
            }
            result => result,
        }
    }

    /// Forgets a PeerRelay that was deleted.
    pub fn forget(&self, relay: &ObjectRef<PeerRelay>) {
        self.lock().remove(relay);
    }

    fn last(
        &self,
        access: &ApiAccess,
        is_current: impl Fn(&CachedApi) -> bool,
    ) -> Option<Arc<TailnetApi>> {
        let all = self.lock();
        let last = all.get(&access.relay)?;
        let account = access.account.as_ref().ok();
        let is_same = account.is_none_or(|account| last.account == *account);
        (is_same && is_current(last)).then(|| last.api.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef<PeerRelay>, CachedApi>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn oauth_client(secret: &Secret, name: &str) -> Result<OAuthClient, CredentialError> {
    let value = |key: &'static str| {
        text(secret, key).ok_or(CredentialError::KeyMissing {
            secret: name.to_owned(),
            key,
        })
    };
    Ok(OAuthClient {
        id: value(CLIENT_ID)?,
        secret: value(CLIENT_SECRET)?.into(),
    })
}

/// Reads a text in a Secret, without spaces around it. `None` if it is empty.
fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    let text = String::from_utf8(bytes.0.clone()).ok()?;
    // A Secret that was made from a file or with `echo` ends in a newline, which the API would refuse.
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
