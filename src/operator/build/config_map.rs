//! Configuration of a region's relays.

use std::{collections::BTreeMap, net::SocketAddr};

use k8s_openapi::api::core::v1::ConfigMap;

use super::metadata;
use crate::{
    config::{DEFAULT_STATE_DIR, RelayConfig, ReportConfig},
    names,
    operator::validate::{ValidatedRegion, ValidatedRelay},
};

/// Directory of the configuration in the relay's container.
pub(super) const DIR: &str = "/etc/peerrelay";
/// The configuration.
pub(super) const CONFIG: &str = "relay.yaml";
/// Certificate authorities.
const CA: &str = "ca.pem";
/// Directory of the auth key in the relay's container.
pub(super) const AUTH_DIR: &str = "/var/run/secrets/peerrelay.dev/auth";

pub(super) fn build(relay: &ValidatedRelay, region: &ValidatedRegion) -> ConfigMap {
    let config = RelayConfig {
        control_url: relay.control_url.clone(),
        auth_key_file: Some(format!("{AUTH_DIR}/{}", names::AUTH_KEY).into()),
        ca_file: relay
            .ca_bundle
            .as_ref()
            .map(|_| format!("{DIR}/{CA}").into()),
        state_dir: Some(DEFAULT_STATE_DIR.into()),
        hostname_prefix: Some(relay.hostname_prefix.clone()),
        tags: vec![region.tag.clone()],
        ephemeral: relay.ephemeral.then_some(true),
        port: Some(relay.port),
        metrics_addr: Some(SocketAddr::from(([127, 0, 0, 1], relay.metrics_port))),
        region: Some(region.name.clone()),
        report: Some(ReportConfig {
            peer_relay: relay.name.clone(),
            region: region.name.clone(),
            namespace: relay.namespace.clone(),
        }),
        ..RelayConfig::default()
    };
    let config = serde_yaml::to_string(&config).expect("a configuration is plain data");
    let mut data = BTreeMap::from([(CONFIG.to_owned(), config)]);
    if let Some(ca) = &relay.ca_bundle {
        data.insert(CA.to_owned(), ca.clone());
    }
    ConfigMap {
        metadata: metadata(relay, region),
        data: Some(data),
        ..ConfigMap::default()
    }
}
