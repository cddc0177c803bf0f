//! Configuration of a relay. The operator renders it and the relay parses it; on other hosts, users
//! write it.

pub mod data_path;
pub mod endpoints;
pub mod forms;
pub mod interface_pattern;
pub mod issued_keys;
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
    data_path::DataPath, endpoints::EndpointsConfig, forms::field, log_level::LogLevel,
    port::RelayPort, unknown::UnknownField,
};

/// UDP port of relays if none is set. Tailscale's setup guide uses it too.
pub const DEFAULT_PORT: u16 = 40_000;
/// TCP port of `/metrics`, `/healthz` and `/readyz` if none is set.
pub const DEFAULT_METRICS_PORT: u16 = 9_440;
/// URL of the control server of tailscale.com.
pub const DEFAULT_CONTROL_URL: &str = "https://controlplane.tailscale.com";
/// Key of the configuration in its ConfigMap, and name of the mounted file.
pub const CONFIG_KEY: &str = "relay.yaml";
/// Directory in which a relay stores its identity if none is set.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/peerrelay";
/// Session directory of relays in pods on the host network. It is in memory, so that a reboot
/// removes it, as it ends the sessions.
pub const POD_SESSION_DIR: &str = "/run/peerrelay";

/// Configuration of a relay. All fields are optional: a field that is missing here may be set by a
/// flag or by the environment, and has a default otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RelayConfig {
    /// URL of the control server. It uses HTTPS, or HTTP on a trusted network.
    #[serde(
        rename = "controlURL",
        deserialize_with = "field::control_url",
        skip_serializing_if = "Option::is_none"
    )]
    pub control_url: Option<Url>,
    /// File with the auth key. The relay reads it again while the control server refuses the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_key_file: Option<PathBuf>,
    /// Request an auth key from the operator, which seals it to this relay. It needs `report`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_auth_key: Option<bool>,
    /// PEM file with additional certificate authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Directory for the relay's identity. It is created with mode 0700.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Directory in which a relay leaves its sessions for its successor. A directory in memory,
    /// such as one in `/run`, is best. If empty, it is `RUNTIME_DIRECTORY` of systemd, or else the
    /// state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_dir: Option<PathBuf>,
    /// Name of the tailnet device.
    #[serde(
        deserialize_with = "field::hostname",
        skip_serializing_if = "Option::is_none"
    )]
    pub hostname: Option<String>,
    /// Prefix of the device name: PREFIX-NODE. It has no effect if `hostname` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname_prefix: Option<String>,
    /// Tags to request, with the prefix `tag:`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Register an ephemeral device, which the control server removes when it is offline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<bool>,
    /// UDP port of the relay. An empty port turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<RelayPort>,
    /// Number of threads that forward. If empty, one per core is used, at most 8.
    #[serde(
        deserialize_with = "field::count",
        skip_serializing_if = "Option::is_none"
    )]
    pub threads: Option<NonZero<usize>>,
    /// Addresses to advertise. A change takes effect without a restart.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: EndpointsConfig,
    /// Address and port of `/metrics`, `/healthz` and `/readyz`.
    #[serde(
        deserialize_with = "field::listen_address",
        skip_serializing_if = "Option::is_none"
    )]
    pub metrics_addr: Option<SocketAddr>,
    /// Serve `/metrics` on the address of the Kubernetes node too, on the same port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_on_node: Option<bool>,
    /// Region of the relay in metrics and reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Clients that may use the relay, in the syntax of the tailnet policy. The relay reports the
    /// state of each entry. A change takes effect without a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<String>,
    /// Maximum number of sessions. If empty, it is 65536.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<usize>,
    /// Maximum number of sessions that one tailnet node may request. If empty, it is 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions_per_node: Option<usize>,
    /// Maximum number of sessions that all nodes with the same tag may request together, for each
    /// tag. If empty, it is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_sessions_per_tag: Option<usize>,
    /// Maximum bandwidth of the relay over both data paths, in megabits of UDP payload per second.
    /// If empty, it is unlimited.
    #[serde(
        deserialize_with = "field::count",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_megabits_per_second: Option<NonZero<u32>>,
    /// Maximum bandwidth of each session, both directions together, in megabits of UDP payload per
    /// second. If empty, it is unlimited.
    #[serde(
        deserialize_with = "field::count",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_megabits_per_second_per_session: Option<NonZero<u32>>,
    /// Data path that forwards packets of open sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPath>,
    /// Log level of the relay. The environment variable `PEERRELAY_LOG` takes precedence. A change
    /// takes effect without a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Target of the relay's reports in Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportConfig>,
}

/// `RelayNode` that a relay writes. The names of the node and the pod are in the environment.
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

/// Error of reading a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration {path}: check the path and its permissions")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a relay configuration.
    #[error("failed to parse {path}")]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// Error of the parser, with the field and its position.
        #[source]
        source: serde_yaml::Error,
    },
}

impl RelayConfig {
    /// Reads a YAML file. Also returns its unknown fields, which are ignored.
    ///
    /// # Errors
    /// The file cannot be read, or a field has a value of the wrong type.
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

    /// Merges two configurations. Fields of `lower` are used where `self` has none.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        let list = |upper: Vec<String>, lower| if upper.is_empty() { lower } else { upper };
        Self {
            control_url: self.control_url.or(lower.control_url),
            auth_key_file: self.auth_key_file.or(lower.auth_key_file),
            request_auth_key: self.request_auth_key.or(lower.request_auth_key),
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
