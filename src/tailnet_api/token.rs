//! The access token of a credential: by the client credentials grant of OAuth, or for a token of a workload.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::form_urlencoded::Serializer;

use super::{
    FederatedClient,
    error::{ApiError, Scope},
    http::{Body, Connector, JSON, Request},
    refusal,
};

/// Time before its expiry at which a token counts as expired; half of its life if that is shorter.
const MARGIN: Duration = Duration::from_secs(60);

/// A credential of a tailnet.
#[derive(Debug, Clone)]
pub enum ApiCredential {
    /// An OAuth client with a secret.
    OAuth(OAuthClient),
    /// A federated identity, with a token of a workload that it trusts.
    Federated(FederatedClient),
    /// An API key of Headscale, which is sent with each request.
    ApiKey(SecretString),
}

impl ApiCredential {
    /// The path and the form of the request for an access token, unless the credential is one itself. They
    /// name no scopes: a request that does would be refused as a whole if the credential lacks one of them.
    fn request(&self) -> Option<(&'static str, String)> {
        let mut form = Serializer::new(String::new());
        let path = match self {
            Self::OAuth(client) => {
                form.append_pair("grant_type", "client_credentials")
                    .append_pair("client_id", &client.id)
                    .append_pair("client_secret", client.secret.expose_secret());
                "/api/v2/oauth/token"
            }
            Self::Federated(client) => {
                form.append_pair("client_id", &client.id)
                    .append_pair("jwt", client.token.secret.expose_secret());
                "/api/v2/oauth/token-exchange"
            }
            Self::ApiKey(_) => return None,
        };
        Some((path, form.finish()))
    }
}

/// An OAuth client of a tailnet. Its secret is not printed.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    /// Public name of the client.
    pub id: String,
    /// Secret of the client. Servers differ in its prefix, so none is required.
    pub secret: SecretString,
}

/// An access token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) secret: SecretString,
    /// Scopes of the token; empty if the server names none.
    scopes: Vec<String>,
    /// Tags of the OAuth client, as far as the server names them.
    pub(super) tags: Vec<String>,
    stale: Instant,
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl Token {
    /// Makes a token of a key that needs no request.
    pub(super) fn of_key(secret: SecretString) -> Self {
        Self {
            secret,
            scopes: Vec::new(),
            tags: Vec::new(),
            stale: Instant::now(),
        }
    }

    /// Returns whether the token lasts long enough for another request.
    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.stale
    }

    /// Returns whether the token has the scopes that a request needs, as far as the server told.
    pub(super) fn has(&self, scope: Scope) -> bool {
        self.scopes.is_empty() || scope.is_in(&self.scopes)
    }
}

#[derive(serde::Deserialize)]
struct Granted {
    access_token: String,
    /// Seconds; OAuth does not require it.
    #[serde(default)]
    expires_in: u64,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    tags: String,
}

/// Requests an access token with all scopes of the credential.
pub(super) async fn request(
    connector: &Connector,
    credential: &ApiCredential,
    operation: &'static str,
) -> Result<Token, ApiError> {
    let (path, form) = credential
        .request()
        .ok_or(ApiError::Protocol { operation })?;
    let request = Request {
        method: Method::POST,
        path,
        bearer: None,
        body: Body::Form(Bytes::from(form)),
        accept: JSON,
        if_match: None,
    };
    // The life of the token begins when the server makes it, which may be any time from now on.
    let asked = Instant::now();
    let answer = connector.send(operation, request).await?;
    match answer.status {
        status if status.is_success() => {
            let granted: Granted = answer.json(operation)?;
            Ok(token(granted, asked))
        }
        // tailscale.com answers 401 for an unknown client, and 403 for a federated identity whatever does
        // not match; OAuth allows 400 and 401 (RFC 6749, section 5.2).
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(
            refusal::credential_refused(&answer, connector.server(), credential),
        ),
        _ => Err(refusal::without_reason(&answer, operation)),
    }
}

fn token(granted: Granted, asked: Instant) -> Token {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    // Longer lives than a day are cut: a clock cannot overflow, and tokens live for an hour.
    let life = Duration::from_secs(granted.expires_in.min(86_400));
    Token {
        secret: granted.access_token.into(),
        scopes: words(&granted.scope),
        tags: words(&granted.tags),
        stale: asked + life - MARGIN.min(life / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_until_shortly_before_it_expires() {
        for (expires_in, used_for) in [(3_600, 3_540), (60, 30), (0, 0), (u64::MAX, 86_340)] {
            let granted = Granted {
                access_token: "t".into(),
                expires_in,
                scope: String::new(),
                tags: String::new(),
            };
            let now = Instant::now();
            assert_eq!(
                token(granted, now).stale - now,
                Duration::from_secs(used_for)
            );
        }
    }

    #[test]
    fn a_token_has_its_scopes_or_any_if_none_is_named() {
        let with = |scope: &str| {
            let granted = Granted {
                access_token: "t".into(),
                expires_in: 0,
                scope: scope.into(),
                tags: String::new(),
            };
            token(granted, Instant::now())
        };
        assert!(with("devices:core auth_keys").has(Scope::AuthKeys));
        assert!(with("all").has(Scope::AuthKeys));
        assert!(with("").has(Scope::AuthKeys));
        assert!(!with("auth_keys:read devices:core").has(Scope::AuthKeys));
        for (held, reads) in [
            ("devices:core:read", true),
            ("all:read", true),
            ("auth_keys", false),
        ] {
            assert_eq!(with(held).has(Scope::DevicesRead), reads, "{held}");
            assert!(!with(held).has(Scope::Devices), "{held}");
        }
        let companions = "devices:core:read devices:posture_attributes:read";
        for (held, reads, writes) in [
            ("policy_file", true, true),
            ("policy_file:read", true, false),
            ("devices:core", false, false),
        ] {
            let token = with(&format!("{held} {companions}"));
            assert_eq!(token.has(Scope::PolicyRead), reads, "{held}");
            assert_eq!(token.has(Scope::Policy), writes, "{held}");
            assert!(!with(held).has(Scope::PolicyRead), "{held} alone");
        }
    }
}
