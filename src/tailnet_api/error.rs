//! Errors of the API, each with its fix.

use std::time::Duration;

use super::identity::Claims;
use crate::dial::DialError;

/// A scope of an OAuth client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Creates and deletes auth keys.
    AuthKeys,
    /// Deletes and changes devices.
    Devices,
    /// Reads devices, as the scope to change them also does.
    DevicesRead,
    /// Reads and validates the policy file.
    PolicyRead,
    /// Writes the policy file.
    Policy,
}

impl Scope {
    /// Returns the name of the scope to add to an OAuth client.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthKeys => "auth_keys",
            Self::Devices | Self::DevicesRead => "devices:core",
            Self::PolicyRead => {
                "policy_file:read, devices:core:read or devices:posture_attributes:read (all three \
                 are needed)"
            }
            Self::Policy => {
                "policy_file, devices:core:read or devices:posture_attributes:read (all three are \
                 needed)"
            }
        }
    }

    /// Returns the access to add in the admin console.
    pub(super) const fn access(self) -> &'static str {
        match self {
            Self::PolicyRead => "with read access",
            Self::Policy => "policy_file with write access",
            Self::AuthKeys | Self::Devices | Self::DevicesRead => "with write access",
        }
    }

    /// Returns whether the scopes of an access token include this one. A policy file also needs
    /// scopes that refusals do not name.
    pub(super) fn is_in(self, held: &[String]) -> bool {
        const POSTURE: &str = "devices:posture_attributes:read";
        let needed: &[&str] = match self {
            // `devices:core` is not enough to create keys (tailscale/github-action#301).
            Self::AuthKeys => &["auth_keys"],
            Self::Devices => &["devices:core"],
            Self::DevicesRead => &["devices:core:read"],
            Self::PolicyRead => &["policy_file:read", "devices:core:read", POSTURE],
            Self::Policy => &["policy_file", "devices:core:read", POSTURE],
        };
        let includes = |held: &str, needed: &str| {
            let written = needed.strip_suffix(":read");
            let is_read = written.is_some_and(|scope| held == scope || held == "all:read");
            held == "all" || held == needed || is_read
        };
        let is_held = |needed: &&str| held.iter().any(|held| includes(held, needed));
        needed.iter().all(is_held)
    }
}

/// Error of a request to the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server cannot be reached. The request was not sent.
    #[error("failed to {operation}: {server} cannot be reached")]
    Unreachable {
        /// Infinitive that names the request.
        operation: &'static str,
        /// URL of the server.
        server: String,
        /// Error of the connection.
        #[source]
        source: DialError,
    },
    /// No whole answer has come. The request may have been carried out.
    #[error("failed to {operation}: the API has not answered")]
    Lost {
        /// Infinitive that names the request.
        operation: &'static str,
    },
    /// The answer is not one of this API.
    #[error("failed to {operation}: the answer is not one of Tailscale's API; check the API's URL")]
    Protocol {
        /// Infinitive that names the request.
        operation: &'static str,
    },
    /// The API refuses the OAuth client itself.
    #[error(
        "{server} refuses the OAuth client{}: store client_id and client_secret of a client that \
         is not revoked",
        quoted(message)
    )]
    ClientRefused {
        /// URL of the server.
        server: String,
        /// Message of the API.
        message: String,
    },
    /// The API refuses the API key.
    #[error("{server} refuses the API key: store one that is not expired")]
    KeyRefused {
        /// URL of the server.
        server: String,
    },
    /// The API refuses the token of the workload.
    #[error(
        "{server} refuses the token of the operator for the federated identity {id}{}: its issuer, subject and \
         audience must be those of the token, which has {claims}",
        quoted(message)
    )]
    IdentityRefused {
        /// URL of the server.
        server: String,
        /// Message of the API.
        message: String,
        /// Public name of the federated identity.
        id: String,
        /// Claims of the token.
        claims: Box<Claims>,
    },
    /// The API refuses an access token that it has just given.
    #[error(
        "failed to {operation}: the API refuses a new access token{}",
        quoted(message)
    )]
    TokenRefused {
        /// Infinitive that names the request.
        operation: &'static str,
        /// Message of the API.
        message: String,
    },
    /// The OAuth client lacks a scope.
    #[error(
        "failed to {operation}: the credential lacks the scope {}; add it in the admin console, {}",
        scope.as_str(),
        scope.access()
    )]
    ScopeMissing {
        /// Infinitive that names the request.
        operation: &'static str,
        /// Scope that the user adds to the OAuth client.
        scope: Scope,
    },
    /// The OAuth client may not use the tags.
    #[error(
        "failed to {operation}: the credential may not use {}; its only tag must own the tags of \
         all relays, by tagOwners in the tailnet policy: {}",
        tags.join(", "),
        tag_owners(tags, client_tags)
    )]
    TagsRefused {
        /// Infinitive that names the request.
        operation: &'static str,
        /// Tags of the request.
        tags: Vec<String>,
        /// Tags of the OAuth client, as far as the API named them.
        client_tags: Vec<String>,
    },
    /// There is no such object, or the OAuth client does not see it.
    #[error("failed to {operation}: the API finds no such object")]
    NotFound {
        /// Infinitive that names the request.
        operation: &'static str,
    },
    /// Too many requests were sent.
    #[error("failed to {operation}: the API limits the rate of requests")]
    RateLimited {
        /// Infinitive that names the request.
        operation: &'static str,
        /// Wait that the API asks for.
        retry_after: Option<Duration>,
    },
    /// The server fails. The request may have been carried out.
    #[error("failed to {operation}: the API answered {status}{}", quoted(message))]
    Unavailable {
        /// Infinitive that names the request.
        operation: &'static str,
        /// HTTP status of the answer.
        status: u16,
        /// Message of the API.
        message: String,
        /// Wait that the API asks for.
        retry_after: Option<Duration>,
    },
    /// The API refuses the request for another reason.
    #[error("failed to {operation}: the API answered {status}{}", quoted(message))]
    Refused {
        /// Infinitive that names the request.
        operation: &'static str,
        /// HTTP status of the answer.
        status: u16,
        /// Message of the API.
        message: String,
    },
}

impl ApiError {
    /// Returns the wait that the API asks for.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// Returns whether the request may have been carried out nevertheless.
    pub const fn may_have_happened(&self) -> bool {
        matches!(
            self,
            // `Protocol` follows a status of success: the object may exist, although its description could
            // not be read.
            Self::Lost { .. } | Self::Protocol { .. } | Self::Unavailable { .. }
        )
    }

    /// Returns whether only a user can solve it.
    pub const fn needs_user(&self) -> bool {
        match self {
            Self::ClientRefused { .. }
            | Self::KeyRefused { .. }
            | Self::IdentityRefused { .. }
            | Self::ScopeMissing { .. }
            | Self::TagsRefused { .. }
            | Self::Refused { .. } => true,
            // An OAuth client that is only minutes old is answered with 404 too, so `NotFound` may pass by
            // itself.
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Protocol { .. }
            | Self::TokenRefused { .. }
            | Self::NotFound { .. }
            | Self::RateLimited { .. }
            | Self::Unavailable { .. } => false,
        }
    }

    /// Returns whether a new access token may change the answer: scopes and tags do not change in
    /// one.
    pub(super) const fn may_depend_on_token(&self) -> bool {
        matches!(
            self,
            Self::ScopeMissing { .. } | Self::TagsRefused { .. } | Self::TokenRefused { .. }
        )
    }
}

/// The entry of `tagOwners` that lets the client use the tags.
fn tag_owners(tags: &[String], client_tags: &[String]) -> String {
    let owner = match client_tags {
        [owner] => owner.as_str(),
        _ => "tag:TAG-OF-THE-OAUTH-CLIENT",
    };
    let entries = tags.iter().map(|tag| format!(r#""{tag}": ["{owner}"]"#));
    entries.collect::<Vec<_>>().join(", ")
}

fn quoted(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(" ({message})"),
    }
}
