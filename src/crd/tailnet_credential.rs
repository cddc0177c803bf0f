//! `TailnetCredential`: access to the API of a tailnet, which PeerRelays of several namespaces share.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::credential::{OAuthRef, WorkloadIdentity};

/// Entry of `allowedNamespaces` that allows every namespace.
pub const ALL_NAMESPACES: &str = "*";

/// Access to the API of a tailnet, and the namespaces whose PeerRelays may use it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[kube(
    group = "peerrelay.dev",
    version = "v1alpha1",
    kind = "TailnetCredential",
    shortname = "tncred",
    category = "peer-relay",
    derive = "PartialEq",
    doc = "Access to the API of a tailnet, for PeerRelays that name it in spec.tailnet.credentialsRef. Several PeerRelays of several namespaces can share it.",
    printcolumn(name = "Control", type_ = "string", json_path = ".spec.controlURL"),
    printcolumn(
        name = "Secret",
        type_ = "string",
        json_path = ".spec.oauth.secretName"
    ),
    printcolumn(
        name = "Client",
        type_ = "string",
        json_path = ".spec.workloadIdentity.clientID"
    ),
    printcolumn(
        name = "Namespaces",
        type_ = "string",
        json_path = ".spec.allowedNamespaces"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.oauth) != has(self.workloadIdentity)").message("spec must have either oauth (a Secret with an OAuth client, in the namespace of the operator) or workloadIdentity (a federated identity)"))]
#[x_kube(validation = Rule::new("!has(self.controlURL) || self.controlURL.matches('^https?://[^/?#]+/?$')").message("controlURL must be a URL without a path, such as https://control.example.net"))]
#[x_kube(validation = Rule::new("!has(self.apiURL) || self.apiURL.matches('^https?://[^/?#]+/?$')").message("apiURL must be a URL without a path, such as https://api.example.net"))]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.caBundle.contains('-----BEGIN CERTIFICATE-----')").message("caBundle must be PEM: one or more blocks that begin with -----BEGIN CERTIFICATE-----"))]
#[x_kube(validation = Rule::new("!('*' in self.allowedNamespaces) || self.allowedNamespaces.size() == 1").message("allowedNamespaces has '*', which allows all namespaces, beside other entries: remove '*' or the others"))]
pub struct TailnetCredentialSpec {
    /// OAuth client with which the operator creates auth keys and deletes devices. The Secret is in
    /// the namespace of the operator. Set this or `workloadIdentity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthRef>,
    /// Federated identity with which the operator creates auth keys and deletes devices. Set this or
    /// `oauth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,
    /// URL of the control server. If empty, the control server of tailscale.com is used.
    #[serde(
        default,
        rename = "controlURL",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 512))]
    pub control_url: Option<String>,
    /// URL of the API of the tailnet. If empty, it is the API of tailscale.com, or `controlURL` if
    /// that is another control server.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub api_url: Option<String>,
    /// PEM certificates of additional certificate authorities, for control, API and DERP servers
    /// with certificates from a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 262144))]
    pub ca_bundle: Option<String>,
    // There is no selector by label, because tenants of many clusters can label their own namespaces. An
    // empty list could be read as all namespaces or as none.
    /// Namespaces whose PeerRelays may use this credential, or `*` for all namespaces. Users who may
    /// create PeerRelays in an allowed namespace can add relays to the tailnet, with each tag that
    /// the credential may use.
    #[schemars(
        length(min = 1, max = 256),
        inner(
            length(max = 63),
            regex(pattern = "^([*]|[a-z0-9]([a-z0-9-]*[a-z0-9])?)$")
        )
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_namespaces: Vec<String>,
}

impl TailnetCredentialSpec {
    /// Returns whether PeerRelays of a namespace may use this credential.
    pub fn allows(&self, namespace: &str) -> bool {
        let mut allowed = self.allowed_namespaces.iter();
        allowed.any(|name| name == namespace || name == ALL_NAMESPACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_allows_the_namespaces_that_it_names() {
        let allows = |names: &[&str], namespace: &str| {
            let spec = TailnetCredentialSpec {
                oauth: None,
                workload_identity: None,
                control_url: None,
                api_url: None,
                ca_bundle: None,
                allowed_namespaces: names.iter().map(|&name| name.to_owned()).collect(),
            };
            spec.allows(namespace)
        };
        assert!(allows(&["a", "b"], "b"));
        assert!(!allows(&["a", "b"], "c"));
        assert!(!allows(&["a"], "a-b"));
        assert!(allows(&["*"], "c"));
        assert!(!allows(&[], "c"));
    }
}
