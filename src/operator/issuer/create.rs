//! Requests to the API of a tailnet for auth keys.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use kube_runtime::reflector::ObjectRef;
use url::Url;

use crate::{
    config::issued_keys::{IssuedKey, IssuedKeys, context},
    crd::PeerRelay,
    dial::Dialer,
    names,
    operator::{credential::CredentialError, plan::WantedKey, validate::OAuthCredential},
    sealed,
    tailnet_api::{ApiError, KeyRequest, OAuthClient, TailnetApi},
};

/// Time in which a relay must use its auth key.
const LIFETIME: Duration = Duration::from_secs(600);
/// Keys of the Secret with an OAuth client.
const CLIENT_ID: &str = "client_id";
const CLIENT_SECRET: &str = "client_secret";

/// An API client, and what it was made of.
#[derive(Clone)]
pub(super) struct CachedApi {
    made_of: (Option<String>, OAuthCredential, Option<String>),
    api: Arc<TailnetApi>,
}

/// The work of one task.
pub(super) struct Order {
    pub(super) relay: ObjectRef<PeerRelay>,
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) credential: OAuthCredential,
    pub(super) ca_bundle: Option<String>,
    pub(super) wanted: Vec<WantedKey>,
    pub(super) api: Option<CachedApi>,
}

/// The results of one task.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) issued: IssuedKeys,
    pub(super) api: Option<CachedApi>,
    pub(super) error: Option<CredentialError>,
}

/// Creates the auth keys of an order, one after the other, up to an error that concerns all of them.
/// Tags that the API refuses do not keep the relays with other tags from their keys.
pub(super) async fn create(client: &Client, order: &Order) -> Outcome {
    let mut outcome = Outcome::default();
    let cached = match api(client, order).await {
        Ok(cached) => cached,
        Err(error) => {
            warn(order, &error);
            outcome.error = Some(error);
            return outcome;
        }
    };
    let mut refused = Vec::new();
    for wanted in &order.wanted {
        if refused.contains(&&wanted.tag) {
            continue;
        }
        match create_one(&cached.api, &order.namespace, wanted).await {
            Ok(issued) => {
                tracing::info!(
                    relay = wanted.relay,
                    namespace = order.namespace,
                    "auth key created"
                );
                outcome.issued.0.insert(wanted.relay.clone(), issued);
            }
            Err(error) => {
                warn(order, &error);
                let is_general =
                    !matches!(error, CredentialError::Api(ApiError::TagsRefused { .. }));
                outcome.error = Some(error);
                if is_general {
                    break;
                }
                refused.push(&wanted.tag);
            }
        }
    }
    outcome.api = Some(cached);
    outcome
}

fn warn(order: &Order, error: &CredentialError) {
    let (name, namespace) = (&order.relay.name, &order.namespace);
    let error = error.problem().message;
    tracing::warn!(name, namespace, error, "no auth key for a relay");
}

async fn create_one(
    api: &TailnetApi,
    namespace: &str,
    wanted: &WantedKey,
) -> Result<IssuedKey, CredentialError> {
    let request = KeyRequest {
        tags: vec![wanted.tag.clone()],
        ephemeral: wanted.ephemeral,
        lifetime: LIFETIME,
        description: format!("{} {}", names::OPERATOR, wanted.node),
    };
    let minted = api.create_key(&request).await?;
    let context = context(namespace, &wanted.relay);
    Ok(IssuedKey {
        request: wanted.request.clone(),
        sealed: sealed::seal(&wanted.request, &context, &minted.key)?,
    })
}

/// The API client of an order: the last one, unless the Secret or the PeerRelay has changed.
async fn api(client: &Client, order: &Order) -> Result<CachedApi, CredentialError> {
    let OAuthCredential { secret: name, url } = &order.credential;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &order.namespace);
    let secret = secrets.get(name).await;
    let secret =
        secret.map_err(|error| CredentialError::of_secret(error, name, &order.namespace))?;
    let made_of = (
        secret.metadata.resource_version.clone(),
        order.credential.clone(),
        order.ca_bundle.clone(),
    );
    if let Some(cached) = order.api.as_ref().filter(|api| api.made_of == made_of) {
        return Ok(cached.clone());
    }
    let client = oauth_client(&secret, name)?;
    let dialer = Dialer::with_authorities(order.ca_bundle.as_deref())?;
    let api = Arc::new(TailnetApi::new(Url::clone(url), client, dialer));
    Ok(CachedApi { made_of, api })
}

fn oauth_client(secret: &Secret, name: &str) -> Result<OAuthClient, CredentialError> {
    let value = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        let text = text.map(|text| text.trim().to_owned());
        text.filter(|text| !text.is_empty())
            .ok_or(CredentialError::KeyMissing {
                secret: name.to_owned(),
                key,
            })
    };
    Ok(OAuthClient {
        id: value(CLIENT_ID)?,
        secret: value(CLIENT_SECRET)?.into(),
    })
}
