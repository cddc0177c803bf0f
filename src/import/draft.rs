//! PeerRelay that a conversion writes, with the fields that it sets.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::crd::{exposure::Exposure, placement::Placement, template::Template};

/// PeerRelay without defaults, so that the user sees only the settings of the source.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Draft {
    pub(super) api_version: String,
    pub(super) kind: &'static str,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) enabled: Option<bool>,
    pub(super) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_relays: Option<u16>,
    pub(super) tailnet: Tailnet,
    pub(super) regions: Vec<Region>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) monitoring: Option<Monitoring>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) template: Template,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tailnet {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth_key: Option<SecretRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oauth: Option<SecretRef>,
    #[serde(rename = "controlURL", skip_serializing_if = "Option::is_none")]
    pub(super) control_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hostname_prefix: Option<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretRef {
    pub(super) secret_name: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Region {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
    pub(super) clients: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(super) placement: Placement,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) exposure: Option<Exposure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) endpoints: Option<Endpoints>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Endpoints {
    #[serde(rename = "static")]
    pub(super) fixed: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Monitoring {
    pub(super) service_monitor: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
}

impl Draft {
    /// Creates a PeerRelay with one region.
    pub(super) fn new(metadata: Metadata, spec: Spec) -> Self {
        Self {
            api_version: format!("{}/v1alpha1", crate::crd::GROUP),
            kind: "PeerRelay",
            metadata,
            spec,
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
