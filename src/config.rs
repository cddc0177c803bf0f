//! The relay's configuration: rendered by the operator, parsed by the relay, and the same by hand.

pub mod data_path;
pub mod endpoints;
pub mod log_level;
pub mod peers;
pub mod port;
pub mod unknown;
pub mod withdrawals;

use std::{
    net::SocketAddr,
    num::NonZero,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::Url;

use self::{
    data_path::DataPath, endpoints::EndpointsConfig, log_level::LogLevel, port::RelayPort,
    unknown::UnknownField,
};

/// Port that relays listen on when nothing else is said; the one the setup guides use.
pub const DEFAULT_PORT: u16 = 40_000;
/// Port of `/metrics`, `/healthz` and `/readyz`.
pub const DEFAULT_METRICS_PORT: u16 = 9_440;
/// Control server of tailscale.com.
pub const DEFAULT_CONTROL_URL: &str = "https://controlplane.tailscale.com";
/// Key of the configuration in its ConfigMap, and name of its file.
pub const CONFIG_KEY: &str = "relay.yaml";
/// Directory in which a relay keeps its identity.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/peerrelay";
/// Directory in which a relay in a pod on the node's network leaves its sessions: in memory, and
/// gone after a reboot as they are.
pub const POD_SESSION_DIR: &str = "/run/peerrelay";

/// Everything a relay can be told, all of it optional: what is missing here may come from a flag or
/// from the environment, and has a default otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayConfig {
    /// Control server; HTTPS, or HTTP on a network that is trusted.
    #[serde(rename = "controlURL", skip_serializing_if = "Option::is_none")]
    pub control_url: Option<Url>,
    /// File with the auth key; read again while the control server refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_key_file: Option<PathBuf>,
    /// PEM file with certificate authorities that are trusted besides the public ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Directory for the identity; made with mode 0700.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Directory in which sessions wait for the next relay, best in memory (`/run`); the state
    /// directory when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_dir: Option<PathBuf>,
    /// Name of the tailnet device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The device's name is this, a dash and the Kubernetes node's name, unless `hostname` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname_prefix: Option<String>,
    /// Tags to request, `tag:` included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether control forgets the device when it goes offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// UDP port; an empty one turns the relay off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<RelayPort>,
    /// Threads that forward; one for each core, up to 8, when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZero<usize>>,
    /// Addresses to advertise; a change takes effect without a restart.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: EndpointsConfig,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_addr: Option<SocketAddr>,
    /// Whether `/metrics` is also served on the address of the Kubernetes node, same port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_on_node: Option<bool>,
    /// Region, as metrics and reports name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Who may use the relay, in the words of the tailnet policy; the report says for each whether
    /// it does. A change takes effect without a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<String>,
    /// Sessions in total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<usize>,
    /// Sessions that one tailnet node may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions_per_node: Option<usize>,
    /// Sessions that the nodes of one tag together may ask for, for each tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions_per_tag: Option<usize>,
    /// Megabits of UDP payload that are forwarded in a second; sockets forward then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_megabits_per_second: Option<NonZero<u32>>,
    /// The same for each session, both directions together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_megabits_per_second_per_session: Option<NonZero<u32>>,
    /// What forwards packets of open sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPath>,
    /// How much is logged, unless the environment says so; a change takes effect without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// In Kubernetes: where to report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportConfig>,
}

/// Which `RelayNode` a relay writes. The node's and the pod's name come from the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportConfig {
    /// Name of the PeerRelay.
    pub peer_relay: String,
    /// Region of the PeerRelay.
    pub region: String,
    /// Namespace of the PeerRelay, its pods and its RelayNodes.
    pub namespace: String,
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration {path}: check the path and its permissions")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no relay configuration.
    #[error("failed to parse configuration {path}: fix the named field")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Which field, and where.
        #[source]
        source: serde_yaml::Error,
    },
}

impl RelayConfig {
    /// Reads a YAML file, and lists its fields that were ignored.
    ///
    /// # Errors
    /// The file cannot be read, or has a field of the wrong type.
    pub fn read(path: &Path) -> Result<(Self, Vec<UnknownField>), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        unknown::parse(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source,
        })
    }

    /// Fills in from `lower` what `self` does not say.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let list = |upper: Vec<String>, lower| if upper.is_empty() { lower } else { upper };
        Self {
            control_url: self.control_url.or(lower.control_url),
            auth_key_file: self.auth_key_file.or(lower.auth_key_file),
            ca_file: self.ca_file.or(lower.ca_file),
            state_dir: self.state_dir.or(lower.state_dir),
            session_dir: self.session_dir.or(lower.session_dir),
            hostname: self.hostname.or(lower.hostname),
            hostname_prefix: self.hostname_prefix.or(lower.hostname_prefix),
            tags: list(self.tags, lower.tags),
            ephemeral: self.ephemeral.or(lower.ephemeral),
            port: self.port.or(lower.port),
            threads: self.threads.or(lower.threads),
            endpoints: self.endpoints.over(lower.endpoints),
            metrics_addr: self.metrics_addr.or(lower.metrics_addr),
            metrics_on_node: self.metrics_on_node.or(lower.metrics_on_node),
            region: self.region.or(lower.region),
            clients: list(self.clients, lower.clients),
            max_sessions: self.max_sessions.or(lower.max_sessions),
            max_sessions_per_node: self.max_sessions_per_node.or(lower.max_sessions_per_node),
            max_sessions_per_tag: self.max_sessions_per_tag.or(lower.max_sessions_per_tag),
            max_megabits_per_second: self
                .max_megabits_per_second
                .or(lower.max_megabits_per_second),
            max_megabits_per_second_per_session: self
                .max_megabits_per_second_per_session
                .or(lower.max_megabits_per_second_per_session),
            data_path: self.data_path.or(lower.data_path),
            log_level: self.log_level.or(lower.log_level),
            report: self.report.or(lower.report),
        }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn configuration_round_trips_as_yaml() {
        let config = RelayConfig {
            control_url: Some(Url::parse("https://control.example.net").unwrap()),
            tags: vec!["tag:relay-office".into()],
            endpoints: EndpointsConfig {
                fixed: vec!["[2001:db8::1]:40000".parse().unwrap()],
                ..Default::default()
            },
            report: Some(ReportConfig {
                peer_relay: "edge".into(),
                region: "office".into(),
                namespace: "relays".into(),
            }),
            ..RelayConfig::default()
        };
        let yaml = serde_yaml::to_string(&config).unwrap();
        assert_eq!(serde_yaml::from_str::<RelayConfig>(&yaml).unwrap(), config);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = RelayConfig {
            port: Some(RelayPort::Off),
            region: Some("eu".into()),
            ..Default::default()
        };
        let flags = RelayConfig {
            port: Some(RelayPort::On(2)),
            ..Default::default()
        };
        let merged = flags.over(file);
        assert_eq!(
            (merged.port, merged.region.as_deref()),
            (Some(RelayPort::On(2)), Some("eu"))
        );
    }
}
