//! Configuration of a region's relays.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
};

use k8s_openapi::api::core::v1::ConfigMap;

use super::{data_path, metadata, monitoring::is_scraped};
use crate::{
    config::{
        CONFIG_KEY, DEFAULT_STATE_DIR, POD_SESSION_DIR, RelayConfig, ReportConfig,
        data_path::DataPath, issued_keys::ISSUED_KEYS_KEY, log_level::LogLevel, peers::PEERS_KEY,
        port::RelayPort, withdrawals::WITHDRAWALS_KEY,
    },
    operator::{
        plan::{Region, withdrawal},
        validate::{Credential, ValidSpec},
    },
};

/// Directory of the configuration in the relay's container.
pub(super) const DIR: &str = "/etc/peerrelay";
/// Certificate authorities.
const CA: &str = "ca.pem";
/// Directory of the auth key in the relay's container.
pub(super) const AUTH_DIR: &str = "/var/run/secrets/peerrelay.dev/auth";

pub(super) fn build(relay: &ValidSpec, region: Region<'_>) -> ConfigMap {
    let live = RelayConfig {
        endpoints: region.plan.endpoints.clone(),
        log_level: (relay.settings.log_level != LogLevel::default())
            .then_some(relay.settings.log_level),
        clients: region
            .grant
            .clients
            .iter()
            .map(ToString::to_string)
            .collect(),
        ..RelayConfig::default()
    };
    let mut data = data(relay, region, live);
    // A single relay has no peer to probe.
    if region.plan.peers.len() > 1 {
        let peers =
            serde_yaml::to_string(&region.plan.peers).expect("a list of relays is plain data");
        // In an entry of its own, like the auth keys and withdrawals below: `started_with` has none of
        // them, so they replace no pods when they change.
        data.insert(PEERS_KEY.to_owned(), peers);
    }
    if !region.plan.keys.issued.0.is_empty() {
        let keys = serde_yaml::to_string(&region.plan.keys.issued);
        let keys = keys.expect("a list of auth keys is plain data");
        data.insert(ISSUED_KEYS_KEY.to_owned(), keys);
    }
    let withdrawals = withdrawal::text(&region.plan.withdrawals);
    data.extend(withdrawals.map(|text| (WITHDRAWALS_KEY.to_owned(), text)));
    ConfigMap {
        metadata: metadata(relay, region),
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Settings that need a restart of relays. Relays apply the other settings while they run.
pub(super) fn started_with(relay: &ValidSpec, region: Region<'_>) -> BTreeMap<String, String> {
    data(relay, region, RelayConfig::default())
}

/// The file with the auth key, if there is one in a Secret.
fn auth_key_file(credential: &Credential) -> Option<PathBuf> {
    match credential {
        Credential::AuthKey { key, .. } => Some(format!("{AUTH_DIR}/{key}").into()),
        Credential::Api(_) | Credential::Unknown => None,
    }
}

fn data(relay: &ValidSpec, region: Region<'_>, live: RelayConfig) -> BTreeMap<String, String> {
    let on_host = region.exposure.on_host_network();
    let auth_key_file = auth_key_file(&relay.tailnet.credential);
    let authorities = relay.tailnet.ca_bundle.as_ref();
    let config = RelayConfig {
        control_url: relay.tailnet.control_url.clone(),
        request_auth_key: auth_key_file.is_none().then_some(true),
        auth_key_file,
        ca_file: authorities.map(|_| format!("{DIR}/{CA}").into()),
        state_dir: Some(state_dir(region).into()),
        session_dir: on_host.then(|| POD_SESSION_DIR.into()),
        hostname_prefix: Some(match on_host {
            true => relay.tailnet.hostname_prefix.clone(),
            // Relays of several regions may be on one node.
            false => format!("{}-{}", relay.tailnet.hostname_prefix, region.name),
        }),
        tags: vec![region.tag.clone()],
        ephemeral: relay.is_ephemeral(region.spec).then_some(true),
        port: Some(RelayPort::On(relay.port)),
        metrics_addr: Some(match on_host {
            // On the host network, only the kubelet of the node needs it. Prometheus gets an address that
            // serves nothing but metrics (`metrics_on_node`).
            true => SocketAddr::from((Ipv4Addr::LOCALHOST, relay.metrics_port)),
            // The kubelet probes the pod's address.
            false => SocketAddr::from((Ipv6Addr::UNSPECIFIED, relay.metrics_port)),
        }),
        metrics_on_node: (on_host && is_scraped(relay)).then_some(true),
        region: Some(region.name.clone()),
        data_path: match relay.settings.data_path {
            // Without the permissions for the kernel path, `Auto` reports no problem.
            DataPath::Auto if !data_path::in_kernel(relay, region) => Some(DataPath::Socket),
            chosen => Some(chosen),
        },
        max_sessions: limit(relay.settings.limits.max_sessions),
        max_sessions_per_node: limit(relay.settings.limits.max_sessions_per_node),
        max_sessions_per_tag: limit(relay.settings.limits.max_sessions_per_tag),
        max_megabits_per_second: relay
            .settings
            .limits
            .max_megabits_per_second
            .and_then(NonZero::new),
        max_megabits_per_second_per_session: relay
            .settings
            .limits
            .max_megabits_per_second_per_session
            .and_then(NonZero::new),
        report: Some(ReportConfig {
            peer_relay: relay.owner.name.clone(),
            region: region.name.clone(),
            namespace: relay.owner.namespace.clone(),
        }),
        ..live
    };
    let config = serde_yaml::to_string(&config).expect("a configuration is plain data");
    let mut data = BTreeMap::from([(CONFIG_KEY.to_owned(), config)]);
    if let Some(ca) = authorities {
        data.insert(CA.to_owned(), ca.clone());
    }
    data
}

fn limit(most: Option<u32>) -> Option<usize> {
    most.and_then(|most| usize::try_from(most).ok())
}

/// Directory of the identity in the relay's container. A volume of the pod's own belongs to root,
/// so there it is a directory in it.
pub(super) fn state_dir(region: Region<'_>) -> String {
    match region.exposure.on_host_network() {
        true => DEFAULT_STATE_DIR.to_owned(),
        false => format!("{DEFAULT_STATE_DIR}/identity"),
    }
}
