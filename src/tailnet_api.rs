//! Client of Tailscale's API: keys, devices and the policy file of a tailnet, with an OAuth client or a
//! federated identity as credential. With an API key, it is a client of the policy of Headscale.
//!
//! Each request has a connection of its own. No request is repeated, with one exception: the API
//! may refuse an access token before it expires, and then one request with a new token follows.
//! Callers decide about all other repetitions with [`ApiError::retry_after`] and
//! [`ApiError::may_have_happened`]. There is no request that a caller does not cause.

mod devices;
mod error;
mod headscale;
mod http;
mod identity;
mod keys;
mod policy;
mod refusal;
#[cfg(test)]
mod tests;
mod token;

use ::http::{Method, StatusCode};
use tokio::sync::Mutex;
use url::Url;

pub use self::{
    devices::Device,
    error::{ApiError, Scope},
    identity::{FederatedClient, IdentityToken},
    keys::{KeyRequest, MintedKey},
    policy::{PolicyGuard, PolicyText},
    token::{ApiCredential, OAuthClient},
};
use self::{
    http::{Answer, Body, Connector, JSON, Request},
    refusal::Refusal,
    token::Token,
};
use crate::dial::Dialer;

/// URL of the API of tailscale.com.
pub const HOSTED_API: &str = "https://api.tailscale.com";

/// The API of one tailnet, with one credential.
pub struct TailnetApi {
    connector: Connector,
    credential: ApiCredential,
    /// Access token of the last request. The lock is held while a new one is requested, so that
    /// concurrent requests share it.
    token: Mutex<Option<Token>>,
}

impl TailnetApi {
    /// Makes a client of the API at `base`, such as [`HOSTED_API`]. It sends nothing yet.
    pub fn new(base: Url, credential: ApiCredential, dialer: Dialer) -> Self {
        Self {
            connector: Connector::new(base, dialer),
            credential,
            token: Mutex::default(),
        }
    }

    /// Sends a request with an access token, and returns the answer if it is a success.
    async fn call(&self, call: Call<'_>) -> Result<Answer, ApiError> {
        let token = self.token(call.operation, None).await?;
        let (mut answer, mut used) = (self.send(&call, &token).await?, token);
        if answer.status == StatusCode::UNAUTHORIZED && !self.is_headscale() {
            used = self.token(call.operation, Some(&used)).await?;
            answer = self.send(&call, &used).await?;
        }
        if answer.status.is_success() {
            return Ok(answer);
        }
        if answer.status == StatusCode::UNAUTHORIZED && self.is_headscale() {
            let server = self.connector.server();
            return Err(ApiError::KeyRefused { server });
        }
        let error = refusal::refused(
            &answer,
            Refusal {
                operation: call.operation,
                scope: call.scope,
                tags: call.tags,
                lacks_scope: !used.has(call.scope),
                client_tags: &used.tags,
            },
        );
        if error.may_depend_on_token() {
            self.forget(&used).await;
        }
        Err(error)
    }

    /// As [`Self::call`], about an object that may not exist. Then there is no answer.
    async fn call_if_found(&self, call: Call<'_>) -> Result<Option<Answer>, ApiError> {
        match self.call(call).await {
            Ok(answer) => Ok(Some(answer)),
            Err(ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, call: &Call<'_>, token: &Token) -> Result<Answer, ApiError> {
        let request = Request {
            method: call.method.clone(),
            path: &call.path,
            bearer: Some(&token.secret),
            body: call.body.clone(),
            accept: call.accept,
            if_match: call.if_match,
        };
        self.connector.send(call.operation, request).await
    }

    /// Returns the access token, or requests a new one: if there is none, if it is about to expire,
    /// or if it is the `refused` one.
    async fn token(
        &self,
        operation: &'static str,
        refused: Option<&Token>,
    ) -> Result<Token, ApiError> {
        if let ApiCredential::ApiKey(key) = &self.credential {
            return Ok(Token::of_key(key.clone()));
        }
        let mut token = self.token.lock().await;
        let current = token
            .as_ref()
            .filter(|token| token.is_fresh() && Some(*token) != refused);
        if let Some(current) = current {
            return Ok(current.clone());
        }
        // The request for a new token may fail or be cancelled. The refused one must not be used again
        // then.
        *token = None;
        let new = token::request(&self.connector, &self.credential, operation).await?;
        Ok(token.insert(new).clone())
    }

    /// Forgets an access token, unless there is another one already.
    async fn forget(&self, used: &Token) {
        self.token.lock().await.take_if(|token| token == used);
    }
}

/// A request of the API that needs an access token.
struct Call<'a> {
    /// Infinitive that completes "failed to", for errors.
    operation: &'static str,
    method: Method,
    path: String,
    body: Body,
    /// Scope that the OAuth client needs for it.
    scope: Scope,
    /// Tags in the request.
    tags: &'a [String],
    accept: &'static str,
    if_match: Option<&'a str>,
}

impl Call<'_> {
    fn new(operation: &'static str, method: Method, path: String, scope: Scope) -> Self {
        Self {
            operation,
            method,
            path,
            body: Body::None,
            scope,
            tags: &[],
            accept: JSON,
            if_match: None,
        }
    }
}

/// Makes a path below `/api/v2` of parts that are escaped.
fn path(parts: &[&str]) -> String {
    let mut url = Url::parse("http://api/api/v2").expect("a constant URL");
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.extend(parts);
    }
    url.path().to_owned()
}
