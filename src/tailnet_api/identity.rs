//! Tokens of a Kubernetes cluster with which a workload proves its identity to the API.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// A workload that the tailnet trusts: a federated identity of its administrator, and a token of the
/// workload.
#[derive(Debug, Clone)]
pub struct FederatedClient {
    /// Public name of the federated identity.
    pub id: String,
    /// Token of the workload.
    pub token: IdentityToken,
}

/// A signed token (JWT, RFC 7519). The text is a secret, its claims are not.
#[derive(Debug, Clone)]
pub struct IdentityToken {
    pub(super) secret: SecretString,
    /// Claims that a federated identity is compared with.
    pub claims: Claims,
}

/// The claims of a token that a federated identity is compared with. The API verifies them; here they are
/// only read, to select a token and to report why it was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Claims {
    #[serde(default, rename = "iss")]
    issuer: String,
    #[serde(default, rename = "sub")]
    subject: String,
    #[serde(default, rename = "aud")]
    audience: Audience,
}

/// One audience or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
// RFC 7519, section 4.1.3, allows a text in place of a list with one audience.
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

impl IdentityToken {
    /// Reads the text of a token. `None` if it is no token.
    pub fn parse(text: &str) -> Option<Self> {
        // The file of a token may end in a newline, which the API would refuse as a part of the token.
        let text = text.trim();
        let mut parts = text.split('.');
        let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
        // The parts of a JWT have no padding (RFC 7515, section 2).
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        Some(Self {
            claims: serde_json::from_slice(&payload).ok()?,
            secret: text.into(),
        })
    }
}

impl PartialEq for IdentityToken {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl Claims {
    /// Returns whether the token is for this audience.
    pub fn is_for(&self, audience: &str) -> bool {
        self.audience.names().iter().any(|name| name == audience)
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audience = self.audience.names().join(", ");
        let Self {
            issuer, subject, ..
        } = self;
        write!(f, "issuer {issuer}, subject {subject}, audience {audience}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn token(payload: &str) -> String {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
        format!("e30.{payload}.c2lnbmF0dXJl\n")
    }

    #[test]
    fn the_claims_of_a_token_are_read_with_one_audience_or_several() {
        for audience in [
            r#""api.example.net/T1""#,
            r#"["other", "api.example.net/T1"]"#,
        ] {
            let text = token(&format!(
                r#"{{"iss":"https://cluster","sub":"system:serviceaccount:a:b","aud":{audience},"exp":1}}"#
            ));
            let claims = IdentityToken::parse(&text).unwrap().claims;
            assert!(claims.is_for("api.example.net/T1"), "{audience}");
            assert!(!claims.is_for("api.example.net"), "{audience}");
            let shown = claims.to_string();
            assert!(shown.starts_with("issuer https://cluster, subject system:serviceaccount:a:b"));
        }
    }

    #[test]
    fn other_texts_are_no_tokens() {
        for text in [
            "",
            "a.b",
            "a.%.c",
            &token("1"),
            &token("{").replace('.', ""),
        ] {
            assert!(IdentityToken::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let text = token(r#"{"iss":"i"}"#);
        let shown = format!("{:?}", IdentityToken::parse(&text).unwrap());
        assert!(!shown.contains(text.trim()), "{shown}");
    }
}
