//! The TailnetCredential that a PeerRelay refers to. Pure.

use std::sync::Arc;

use crate::crd::{TailnetCredential, control_server::ControlServer, peer_relay::Tailnet};

/// Reason of a PeerRelay whose TailnetCredential does not exist.
pub const MISSING: &str = "TailnetCredentialMissing";
/// Reason of a PeerRelay whose TailnetCredential cannot be used.
pub const INVALID: &str = "TailnetCredentialInvalid";
/// Reason of a PeerRelay in a namespace that its TailnetCredential does not allow.
pub const NOT_ALLOWED: &str = "NamespaceNotAllowed";

/// The TailnetCredential that a PeerRelay refers to, as far as it is known.
#[derive(Debug, Clone, Default)]
pub enum Referred {
    /// The PeerRelay refers to none, or there is no cluster to look it up in.
    #[default]
    Unknown,
    /// The TailnetCredential does not exist.
    Missing,
    /// The operator cannot read it, for this reason.
    Unreadable(String),
    /// The TailnetCredential exists.
    Found(Arc<TailnetCredential>),
}

/// Reason why a PeerRelay cannot use its TailnetCredential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// There is no TailnetCredential of this name.
    #[error(
        "TailnetCredential {0} of tailnet.credentialsRef does not exist: create it, or correct the name"
    )]
    Missing(String),
    /// A newer version of the operator may have written it.
    #[error("TailnetCredential {name} cannot be read by this version of the operator: {problem}")]
    Unreadable {
        /// Name of the TailnetCredential.
        name: String,
        /// Error of the parser.
        problem: String,
    },
    /// It does not allow the namespace.
    #[error(
        "TailnetCredential {name} does not allow PeerRelays of namespace {namespace}: add the \
         namespace to its spec.allowedNamespaces, or move the PeerRelay to a namespace that is listed"
    )]
    NotAllowed {
        /// Name of the TailnetCredential.
        name: String,
        /// Namespace of the PeerRelay.
        namespace: String,
    },
    /// A field of it cannot be used.
    #[error("TailnetCredential {name}: {problem}")]
    Invalid {
        /// Name of the TailnetCredential.
        name: String,
        /// Sentence that names the field and the fix.
        problem: String,
    },
}

impl ReferenceError {
    /// The reason in conditions.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) => MISSING,
            Self::NotAllowed { .. } => NOT_ALLOWED,
            Self::Unreadable { .. } | Self::Invalid { .. } => INVALID,
        }
    }

    /// Returns whether the TailnetCredential may have been deleted together with the PeerRelay, so
    /// that its last account can still delete the devices.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }
}

impl Referred {
    /// Returns the TailnetCredential for a PeerRelay in this namespace. `None` if it is not known.
    ///
    /// # Errors
    /// It does not exist, cannot be read, or does not allow the namespace.
    pub fn for_namespace(
        &self,
        name: &str,
        namespace: &str,
    ) -> Result<Option<&TailnetCredential>, ReferenceError> {
        let name = name.to_owned();
        match self {
            Self::Unknown => Ok(None),
            Self::Missing => Err(ReferenceError::Missing(name)),
            Self::Unreadable(problem) => Err(ReferenceError::Unreadable {
                name,
                problem: problem.clone(),
            }),
            Self::Found(found) if found.spec.allows(namespace) => Ok(Some(found)),
            Self::Found(_) => Err(ReferenceError::NotAllowed {
                name,
                namespace: namespace.to_owned(),
            }),
        }
    }
}

/// Returns the control server of a PeerRelay. `None` if only its TailnetCredential has it, which is
/// not known.
pub fn control_server(tailnet: &Tailnet, referred: &Referred) -> Option<ControlServer> {
    match (&tailnet.credentials_ref, referred) {
        (None, _) => Some(ControlServer::of(tailnet.control_url.as_deref())),
        (Some(_), Referred::Found(found)) => {
            Some(ControlServer::of(found.spec.control_url.as_deref()))
        }
        (Some(_), _) => None,
    }
}
