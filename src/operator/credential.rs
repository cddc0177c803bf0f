//! The credential of a PeerRelay with which the operator creates auth keys: problems, and results
//! of earlier attempts.

use kube::core::Status;

use super::{
    referred_credential::{self, ReferenceError},
    refusal::chain,
};
use crate::{
    config::issued_keys::IssuedKeys, dial::DialError, sealed::InvalidRecipient,
    tailnet_api::ApiError,
};

/// Reason of a credential that has created auth keys.
pub const ACCEPTED: &str = "KeysCreated";
/// Reasons of a credential that cannot be used.
pub const REASONS: &[&str] = &[
    MISSING,
    FORBIDDEN,
    REFUSED,
    SCOPE_MISSING,
    TAGS_REFUSED,
    API_REFUSED,
    API_UNREACHABLE,
    referred_credential::MISSING,
    referred_credential::INVALID,
    referred_credential::NOT_ALLOWED,
];
const MISSING: &str = "CredentialMissing";
const FORBIDDEN: &str = "CredentialForbidden";
const REFUSED: &str = "CredentialRefused";
const SCOPE_MISSING: &str = "ScopeMissing";
const TAGS_REFUSED: &str = "TagsRefused";
const API_REFUSED: &str = "APIRefused";
const API_UNREACHABLE: &str = "APIUnreachable";

/// Results of the operator's attempts to create auth keys for one PeerRelay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Issuing {
    /// Auth keys that the ConfigMaps may not have yet.
    pub issued: IssuedKeys,
    /// Result of the last attempt. `None` if this process has made none.
    pub last: Option<Result<(), CredentialProblem>>,
}

/// The reason why an auth key could not be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialProblem {
    /// Documented reason, in CamelCase.
    pub reason: &'static str,
    /// Sentence that names the fix.
    pub message: String,
    /// True if only a user can solve it.
    pub needs_user: bool,
}

/// Error of an attempt to create an auth key.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The TailnetCredential of the PeerRelay cannot be used.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The Secret does not exist.
    #[error(
        "Secret {secret} does not exist in namespace {namespace}: create it with the keys \
         client_id and client_secret of an OAuth client"
    )]
    SecretMissing {
        /// Name of the Secret.
        secret: String,
        /// Namespace of the Secret.
        namespace: String,
    },
    /// The operator does not know its namespace, in which the Secret of a TailnetCredential is.
    #[error(
        "the operator does not know its own namespace, in which Secret {0} of the \
         TailnetCredential is: set --lease-namespace"
    )]
    NamespaceUnknown(String),
    /// The Secret lacks a key.
    #[error("Secret {secret} has no key {key}: it must have client_id and client_secret")]
    KeyMissing {
        /// Name of the Secret.
        secret: String,
        /// Missing key of the Secret.
        key: &'static str,
    },
    /// The Secret with an API key does not exist, or lacks its key.
    #[error(
        "Secret {secret} with the key {key} does not exist: create it with an API key of Headscale \
         (headscale apikeys create)"
    )]
    ApiKeyMissing {
        /// Name of the Secret.
        secret: String,
        /// Key of the Secret.
        key: String,
    },
    /// The operator may not read the Secret.
    #[error(
        "the operator may not read Secret {secret}: add it to the chart's value \
         credentials, as {{namespace: {namespace}, secrets: [{secret}]}}"
    )]
    SecretForbidden {
        /// Name of the Secret.
        secret: String,
        /// Namespace of the Secret.
        namespace: String,
    },
    /// The operator has no token for the federated identity.
    #[error(
        "the operator has no token for the audience {0}: add it to the chart's value \
         workloadIdentity.audiences"
    )]
    TokenMissing(String),
    /// The API server did not answer the request for the Secret.
    #[error("failed to read Secret {secret}")]
    Kubernetes {
        /// Name of the Secret.
        secret: String,
        /// Error of the request.
        #[source]
        source: Box<kube::Error>,
    },
    /// The certificate authorities cannot be used.
    #[error(transparent)]
    Trust(#[from] DialError),
    /// The API of the tailnet refuses, or does not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The relay has no valid public key.
    #[error(transparent)]
    Recipient(#[from] InvalidRecipient),
}

impl CredentialError {
    /// Makes the error of a request for a Secret.
    pub fn of_secret(error: kube::Error, secret: &str, namespace: &str) -> Self {
        let (secret, namespace) = (secret.to_owned(), namespace.to_owned());
        match &error {
            kube::Error::Api(status) if is(status, 404) => {
                Self::SecretMissing { secret, namespace }
            }
            kube::Error::Api(status) if is(status, 403) => {
                Self::SecretForbidden { secret, namespace }
            }
            _ => Self::Kubernetes {
                secret,
                source: Box::new(error),
            },
        }
    }

    /// Returns whether the credential may have been deleted together with the PeerRelay, or just
    /// before.
    pub const fn is_gone(&self) -> bool {
        match self {
            Self::SecretMissing { .. }
            | Self::ApiKeyMissing { .. }
            // With a namespace, the RoleBinding that allows to read the Secret is deleted too: 403 may
            // come before 404.
            | Self::SecretForbidden { .. } => true,
            Self::Reference(error) => error.is_missing(),
            _ => false,
        }
    }

    /// Describes the error for the status of the PeerRelay.
    pub fn problem(&self) -> CredentialProblem {
        let reason = match self {
            Self::Reference(error) => error.reason(),
            Self::SecretMissing { .. }
            | Self::NamespaceUnknown(_)
            | Self::KeyMissing { .. }
            | Self::ApiKeyMissing { .. }
            | Self::TokenMissing(_) => MISSING,
            Self::SecretForbidden { .. } => FORBIDDEN,
            Self::Api(
                ApiError::ClientRefused { .. }
                | ApiError::KeyRefused { .. }
                | ApiError::IdentityRefused { .. },
            ) => REFUSED,
            Self::Api(ApiError::ScopeMissing { .. }) => SCOPE_MISSING,
            Self::Api(ApiError::TagsRefused { .. }) => TAGS_REFUSED,
            Self::Api(error) if error.needs_user() => API_REFUSED,
            Self::Kubernetes { .. } | Self::Trust(_) | Self::Api(_) | Self::Recipient(_) => {
                API_UNREACHABLE
            }
        };
        CredentialProblem {
            reason,
            message: chain(self),
            needs_user: reason != API_UNREACHABLE,
        }
    }
}

fn is(status: &Status, code: u16) -> bool {
    status.code == code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_cannot_be_read_is_told_with_the_fix() {
        let answer = |code: u16| {
            let status = Status::failure("no", "Reason").with_code(code);
            let error = kube::Error::Api(Box::new(status));
            CredentialError::of_secret(error, "tailnet-oauth", "relays").problem()
        };
        let missing = answer(404);
        assert_eq!((missing.reason, missing.needs_user), (MISSING, true));
        let forbidden = answer(403);
        assert_eq!(forbidden.reason, FORBIDDEN);
        let line = "{namespace: relays, secrets: [tailnet-oauth]}";
        assert!(forbidden.message.contains(line), "{}", forbidden.message);
        let failed = answer(500);
        assert_eq!((failed.reason, failed.needs_user), (API_UNREACHABLE, false));
    }

    #[test]
    fn every_reason_is_listed() {
        for error in [
            CredentialError::NamespaceUnknown("s".into()),
            ReferenceError::Missing("acme".into()).into(),
            CredentialError::Recipient(InvalidRecipient),
            ApiError::Lost { operation: "try" }.into(),
            ApiError::NotFound { operation: "try" }.into(),
        ] {
            assert!(REASONS.contains(&error.problem().reason));
        }
    }
}
