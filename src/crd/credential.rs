//! Credentials of a tailnet, and references to them.

use std::borrow::Cow;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::names;

/// Pattern of the name of a Secret or of a TailnetCredential.
const NAME: &str = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$";
/// Pattern of a key of a Secret.
const SECRET_KEY: &str = "^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";

/// Reference to a Secret with an OAuth client.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OAuthRef {
    /// Name of the Secret. Its keys `client_id` and `client_secret` contain the OAuth client. The
    /// Secret may be created later, and may be replaced. The operator must be allowed to read it
    /// (`credentials` in the values of the chart).
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = NAME)
    )]
    pub secret_name: String,
}

/// Federated identity of the tailnet (`workload identity federation`).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Client ID of the federated identity. Its issuer is that of the cluster, its subject is the
    /// ServiceAccount of the operator.
    #[serde(rename = "clientID")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z0-9][A-Za-z0-9_-]*$")
    )]
    pub client_id: String,
    /// Audience of the operator's token. If empty, it is `api.tailscale.com/CLIENT-ID`. The operator
    /// needs a token for it (`workloadIdentity` in the values of the chart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub audience: Option<String>,
}

impl WorkloadIdentity {
    /// Returns the audience of the operator's token.
    pub fn audience(&self) -> String {
        let usual = || format!("api.tailscale.com/{}", self.client_id);
        self.audience.clone().unwrap_or_else(usual)
    }
}

/// Reference to a Secret with an auth key, in the namespace of the PeerRelay.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AuthKeyRef {
    /// Name of the Secret. It may be created later, and may be replaced.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = NAME)
    )]
    pub secret_name: String,
    /// Key of the Secret that contains the auth key. If empty, it is `authkey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = SECRET_KEY)
    )]
    pub key: Option<String>,
}

impl AuthKeyRef {
    /// Returns the key of the Secret that contains the auth key.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(names::AUTH_KEY)
    }
}

/// Reference to a Secret with an API key of Headscale, in the namespace of the PeerRelay.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyRef {
    /// Name of the Secret. It may be created later, and may be replaced. The operator must be allowed
    /// to read it (`credentials` in the values of the chart).
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = NAME)
    )]
    pub secret_name: String,
    /// Key of the Secret that contains the API key. If empty, it is `apikey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = SECRET_KEY)
    )]
    pub key: Option<String>,
}

impl ApiKeyRef {
    /// Returns the key of the Secret that contains the API key.
    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap_or(names::API_KEY)
    }
}

/// Reference to a TailnetCredential.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsRef {
    /// Name of the TailnetCredential. It may be created later, and may be replaced. It must allow
    /// the namespace of the PeerRelay (`allowedNamespaces`).
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = NAME)
    )]
    pub name: String,
}

/// Identity of the credential of a PeerRelay. Two PeerRelays with the same one use the same
/// credential.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialIdentity<'a> {
    /// Namespace of the PeerRelay and its Secret. `None` for a TailnetCredential.
    pub namespace: Option<Cow<'a, str>>,
    /// Name of the Secret or the TailnetCredential. It is empty for a federated identity.
    pub name: Cow<'a, str>,
    /// Key of an auth key in its Secret, or the client ID of a federated identity. It is empty for
    /// other credentials.
    pub key: Cow<'a, str>,
}

impl CredentialIdentity<'_> {
    /// Copies the texts.
    pub fn into_owned(self) -> CredentialIdentity<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        CredentialIdentity {
            namespace: self.namespace.map(owned),
            name: owned(self.name),
            key: owned(self.key),
        }
    }
}
