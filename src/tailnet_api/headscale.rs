//! The policy of a tailnet of Headscale, by the first version of its API (0.29), and the expiry of the
//! credential. It has an API key as credential, and no entity tags.

use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::{
    Call, TailnetApi,
    error::{ApiError, Scope},
    http::Body,
    policy::{PolicyGuard, PolicyText, READ, VALIDATE, WRITE},
    token::ApiCredential,
};

const POLICY: &str = "/api/v1/policy";
const CHECK: &str = "/api/v1/policy/check";
const API_KEYS: &str = "/api/v1/apikey";
/// Words of the answer of a server that has no policy yet.
const NOT_FOUND: &str = "acl policy not found";
/// Words of the answer of a server that reads the policy from a file.
const READ_ONLY: &str = "update is disabled";
/// Policy of a server without one: it allows every connection.
const NO_POLICY: &str = "{}";

#[derive(Serialize, Deserialize)]
struct Document {
    policy: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiKeys {
    #[serde(default)]
    api_keys: Vec<ApiKey>,
}

/// An API key without its secret part.
#[derive(Deserialize)]
struct ApiKey {
    /// Beginning of the key, followed by asterisks.
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    expiration: Option<Timestamp>,
}

impl TailnetApi {
    /// Returns the time at which the credential expires. `None` if it does not expire, or if the API
    /// tells no expiry: OAuth clients and federated identities have none, and cause no request.
    ///
    /// # Errors
    /// The request has failed.
    pub async fn credential_expiry(&self) -> Result<Option<Timestamp>, ApiError> {
        /// Infinitive for errors.
        const LIST: &str = "list the API keys";
        let ApiCredential::ApiKey(own) = &self.credential else {
            return Ok(None);
        };
        let call = Call::new(LIST, Method::GET, API_KEYS.to_owned(), Scope::PolicyRead);
        let keys = self.call(call).await?.json::<ApiKeys>(LIST)?.api_keys;
        let is_own = |key: &ApiKey| {
            let prefix = key.prefix.trim_end_matches('*');
            !prefix.is_empty() && own.expose_secret().starts_with(prefix)
        };
        Ok(keys.into_iter().find(is_own).and_then(|key| key.expiration))
    }

    /// Returns whether the API is that of Headscale.
    pub(super) const fn is_headscale(&self) -> bool {
        matches!(self.credential, ApiCredential::ApiKey(_))
    }

    pub(super) async fn headscale_policy(&self) -> Result<PolicyText, ApiError> {
        let call = Call::new(READ, Method::GET, POLICY.to_owned(), Scope::PolicyRead);
        // The error of a missing policy is answered with status 500 like every other one; only its words
        // differ.
        let text = match self.call(call).await {
            Ok(answer) => answer.json::<Document>(READ)?.policy,
            Err(ApiError::Unavailable { message, .. }) if message.contains(NOT_FOUND) => {
                NO_POLICY.to_owned()
            }
            Err(error) => return Err(error),
        };
        let text = Bytes::from(text);
        Ok(PolicyText {
            guard: Some(PolicyGuard::Text(text.clone())),
            text,
        })
    }

    pub(super) async fn headscale_check(&self, text: &str) -> Result<Vec<String>, ApiError> {
        let mut call = Call::new(VALIDATE, Method::POST, CHECK.to_owned(), Scope::PolicyRead);
        call.body = document(text);
        match self.call(call).await {
            Ok(_) => Ok(Vec::new()),
            Err(ApiError::Refused {
                status, message, ..
            }) if status == StatusCode::BAD_REQUEST => Ok(vec![message]),
            Err(error) => Err(error),
        }
    }

    /// Replaces the policy, if it is still the same. Another write within the moment between the two
    /// requests is lost.
    pub(super) async fn headscale_replace(
        &self,
        before: &Bytes,
        text: &str,
    ) -> Result<bool, ApiError> {
        // The API has no condition for a write; comparing first makes the window in which an update can be
        // lost small.
        if self.headscale_policy().await?.text != before {
            return Ok(false);
        }
        let mut call = Call::new(WRITE, Method::PUT, POLICY.to_owned(), Scope::Policy);
        call.body = document(text);
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(ApiError::Unavailable {
                operation,
                status,
                message,
                ..
            }) if message.contains(READ_ONLY) => Err(ApiError::Refused {
                operation,
                status,
                message: format!("{message}: set policy.mode of Headscale to database"),
            }),
            Err(error) => Err(error),
        }
    }
}

fn document(policy: &str) -> Body {
    let policy = policy.to_owned();
    let text = serde_json::to_vec(&Document { policy }).expect("a document is plain data");
    Body::Json(Bytes::from(text))
}

#[cfg(test)]
mod tests;
