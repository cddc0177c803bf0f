//! Requests to the API of a tailnet for auth keys.

use std::time::Duration;

use crate::{
    config::issued_keys::{IssuedKey, IssuedKeys, context},
    names,
    operator::{
        api_clients::{ApiAccess, ApiClients},
        credential::CredentialError,
        plan::WantedKey,
    },
    sealed,
    tailnet_api::{ApiError, KeyRequest, TailnetApi},
};

/// Time in which a relay must use its auth key.
// An auth key whose answer was lost, or that was never stored, is of no use to anybody after this time.
const LIFETIME: Duration = Duration::from_secs(600);

/// The work of one task.
pub(super) struct Order {
    pub(super) access: ApiAccess,
    pub(super) uid: String,
    pub(super) wanted: Vec<WantedKey>,
}

/// The results of one task.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) issued: IssuedKeys,
    pub(super) error: Option<CredentialError>,
}

/// Creates the auth keys of an order, one after the other, up to an error that concerns all of them.
/// Tags that the API refuses do not keep the relays with other tags from their keys.
pub(super) async fn create(clients: &ApiClients, order: &Order) -> Outcome {
    let mut outcome = Outcome::default();
    let api = match clients.get(&order.access).await {
        Ok(api) => api,
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
        match create_one(&api, &order.access.namespace, wanted).await {
            Ok(issued) => {
                tracing::info!(
                    relay = wanted.relay,
                    namespace = order.access.namespace,
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
    outcome
}

fn warn(order: &Order, error: &CredentialError) {
    let (name, namespace) = (&order.access.relay.name, &order.access.namespace);
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
