//! Options of a relay: the configuration, completed with defaults and validated.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
};

use relay_proto::Config;
use url::Url;

use super::{
    reload::{DynamicConfig, Reload},
    socket_path::default_threads,
    tailnet::{AuthKey, KeyRequest, TailnetConfig},
};
use crate::{
    config::{
        DEFAULT_CONTROL_URL, DEFAULT_METRICS_PORT, DEFAULT_PORT, DEFAULT_STATE_DIR, RelayConfig,
        ReportConfig, data_path::DataPath, endpoints::EndpointsConfig, log_level::LogLevel,
        port::RelayPort,
    },
    names,
};

/// Options of a relay.
#[derive(Clone)]
pub struct RelayOptions {
    /// Options of the tailnet device.
    pub tailnet: TailnetConfig,
    /// File with further certificate authorities.
    pub ca_file: Option<PathBuf>,
    /// Directory of the identity.
    pub state_dir: PathBuf,
    /// Directory of the sessions for the next relay, and of the sockets that hand them over.
    pub session_dir: PathBuf,
    /// `true` if the relay is off, because its port is empty.
    pub off: bool,
    /// UDP port, unless the relay is off.
    pub port: u16,
    /// Number of threads of the socket path.
    pub threads: usize,
    /// Addresses to advertise, until the configuration changes.
    pub endpoints: EndpointsConfig,
    /// Name of the Kubernetes node.
    pub node_name: Option<String>,
    /// Sources of configuration changes.
    pub reload: Reload,
    /// Address of the server for metrics and probes.
    pub metrics_addr: SocketAddr,
    /// Further address that serves `/metrics` only.
    pub node_metrics_addr: Option<SocketAddr>,
    /// Region, which is a label of metrics.
    pub region: String,
    /// Selectors of the clients that are meant to use the relay, until the configuration changes.
    pub clients: Vec<String>,
    /// Lifetimes and limits.
    pub limits: Config,
    /// Data path for packets of open sessions.
    pub data_path: DataPath,
    /// Log level, until the configuration changes.
    pub log_level: LogLevel,
    /// PeerRelay to report to, in Kubernetes.
    pub report: Option<ReportConfig>,
}

/// Error of a configuration that cannot work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A tag is not valid.
    #[error(
        "tag '{0}' must begin with 'tag:' and go on with a letter, then letters, digits and dashes"
    )]
    Tag(String),
    /// The auth key comes both from a file and from the environment.
    #[error("auth key is given twice: use either --auth-key-file or PEERRELAY_AUTH_KEY")]
    TwoAuthKeys,
    /// The relay is to request an auth key, but is not in a pod that reports.
    #[error(
        "requestAuthKey needs report, and POD_NAME in the environment: only the operator sets it"
    )]
    RequestOutsideOfKubernetes,
}

/// Facts from the environment of the process that are no part of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Auth key, if the environment has it.
    pub auth_key: Option<String>,
    /// Name of the Kubernetes node.
    pub node_name: Option<String>,
    /// Name of the Kubernetes pod.
    pub pod_name: Option<String>,
    /// Address of the Kubernetes node.
    pub host_ip: Option<IpAddr>,
    /// Name of the host.
    pub host_name: Option<String>,
    /// Directory that systemd made for this run of the service.
    pub runtime_dir: Option<PathBuf>,
}

impl RelayOptions {
    /// Fills in defaults and validates the configuration.
    ///
    /// # Errors
    /// The first setting that cannot work.
    pub fn new(config: RelayConfig, environment: Environment) -> Result<Self, OptionsError> {
        let control_url = config.control_url.clone().unwrap_or_else(|| {
            Url::parse(DEFAULT_CONTROL_URL).expect("the default control URL is valid")
        });
        if let Some(tag) = config.tags.iter().find(|tag| !is_tag(tag)) {
            return Err(OptionsError::Tag(tag.clone()));
        }
        let hostname = hostname(&config, &environment);
        let metrics_addr = config.metrics_addr.unwrap_or_else(|| {
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_METRICS_PORT)
        });
        let limits = limits(&config);
        let auth_key = auth_key(&config, &environment)?;
        let state_dir = config.state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into());
        Ok(Self {
            tailnet: TailnetConfig {
                control_url,
                auth_key,
                hostname,
                tags: config.tags,
                ephemeral: config.ephemeral.unwrap_or(false),
            },
            ca_file: config.ca_file,
            session_dir: config
                .session_dir
                .or(environment.runtime_dir)
                .unwrap_or_else(|| state_dir.clone()),
            state_dir,
            off: config.port == Some(RelayPort::Off),
            port: config
                .port
                .and_then(RelayPort::number)
                .unwrap_or(DEFAULT_PORT),
            threads: config.threads.map_or_else(default_threads, NonZero::get),
            endpoints: config.endpoints,
            node_name: environment.node_name,
            reload: Reload::default(),
            node_metrics_addr: environment
                .host_ip
                .filter(|_| config.metrics_on_node == Some(true))
                .map(|ip| SocketAddr::new(ip, metrics_addr.port())),
            metrics_addr,
            region: config.region.unwrap_or_default(),
            clients: config.clients,
            limits,
            data_path: config.data_path.unwrap_or_default(),
            log_level: config.log_level.unwrap_or_default(),
            report: config.report,
        })
    }

    /// Changing part of the configuration, as it is when the relay starts.
    pub(super) fn dynamic_config(&self) -> DynamicConfig {
        DynamicConfig {
            endpoints: self.endpoints.clone(),
            log_level: self.log_level,
            clients: self.clients.clone(),
            unknown: self.reload.unknown.clone(),
            ..DynamicConfig::default()
        }
    }
}

/// The source of the auth key.
fn auth_key(config: &RelayConfig, environment: &Environment) -> Result<AuthKey, OptionsError> {
    if config.request_auth_key == Some(true) {
        let place = config.report.as_ref().zip(environment.pod_name.as_ref());
        let (report, pod) = place.ok_or(OptionsError::RequestOutsideOfKubernetes)?;
        return Ok(AuthKey::Requested(KeyRequest::new(&report.namespace, pod)));
    }
    match (&config.auth_key_file, &environment.auth_key) {
        (Some(_), Some(_)) => Err(OptionsError::TwoAuthKeys),
        (Some(path), None) => Ok(AuthKey::File(path.clone())),
        (None, Some(value)) => Ok(AuthKey::Value(value.clone())),
        (None, None) => Ok(AuthKey::None),
    }
}

/// Lifetimes and limits of sessions: those of the configuration, and defaults for all others.
fn limits(config: &RelayConfig) -> Config {
    let defaults = Config::default();
    Config {
        max_sessions: config.max_sessions.unwrap_or(defaults.max_sessions),
        max_sessions_per_node: config
            .max_sessions_per_node
            .unwrap_or(defaults.max_sessions_per_node),
        max_sessions_per_tag: config.max_sessions_per_tag,
        max_bytes_per_second: config.max_megabits_per_second.map(bytes),
        max_bytes_per_second_per_session: config.max_megabits_per_second_per_session.map(bytes),
        ..defaults
    }
}

/// Returns whether `text` is a valid tag of a tailnet policy (`tailcfg.CheckTag`).
pub fn is_tag(text: &str) -> bool {
    let Some(name) = text.strip_prefix("tag:") else {
        return false;
    };
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Bytes in `megabits`.
fn bytes(megabits: NonZero<u32>) -> NonZero<u64> {
    const BYTES: NonZero<u64> = NonZero::new(125_000).expect("it is not zero");
    NonZero::<u64>::from(megabits).saturating_mul(BYTES)
}

fn hostname(config: &RelayConfig, environment: &Environment) -> String {
    let own = environment
        .node_name
        .as_ref()
        .or(environment.host_name.as_ref());
    let own = own.map_or("relay", String::as_str);
    let name = match (&config.hostname, &config.hostname_prefix) {
        (Some(name), _) => name.clone(),
        (None, Some(prefix)) => format!("{prefix}-{own}"),
        (None, None) => own.to_owned(),
    };
    match names::device(&name) {
        // The name has neither letter nor digit.
        name if name.is_empty() => "relay".to_owned(),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn options(config: RelayConfig) -> Result<RelayOptions, OptionsError> {
        let environment = Environment {
            node_name: Some("N1.example".into()),
            ..Default::default()
        };
        RelayOptions::new(config, environment)
    }

    #[test]
    fn an_empty_configuration_means_defaults() {
        let options = options(RelayConfig::default()).unwrap();
        assert_eq!(options.port, 40_000);
        assert_eq!(options.metrics_addr.to_string(), "127.0.0.1:9440");
        assert_eq!(options.tailnet.hostname, "n1-example");
        assert!(matches!(options.tailnet.auth_key, AuthKey::None));
    }

    #[test]
    fn an_empty_port_turns_the_relay_off() {
        let with = |port| RelayConfig {
            port: Some(port),
            ..RelayConfig::default()
        };
        assert!(options(with(RelayPort::Off)).unwrap().off);
        let on = options(with(RelayPort::On(7_777))).unwrap();
        assert_eq!((on.off, on.port), (false, 7_777));
    }

    #[test]
    fn an_invalid_configuration_is_refused_with_the_fix() {
        let tag = RelayConfig {
            tags: vec!["office".into()],
            ..Default::default()
        };
        assert_eq!(options(tag).err(), Some(OptionsError::Tag("office".into())));
        let config = RelayConfig {
            auth_key_file: Some("key".into()),
            ..Default::default()
        };
        let environment = Environment {
            auth_key: Some("k".into()),
            ..Default::default()
        };
        assert_eq!(
            RelayOptions::new(config, environment).err(),
            Some(OptionsError::TwoAuthKeys)
        );
    }

    #[test]
    fn device_name_is_a_dns_label() {
        let config = RelayConfig {
            hostname_prefix: Some("Edge".into()),
            ..Default::default()
        };
        assert_eq!(options(config).unwrap().tailnet.hostname, "edge-n1-example");
        let config = RelayConfig {
            hostname: Some("x".repeat(80)),
            ..Default::default()
        };
        assert_eq!(options(config).unwrap().tailnet.hostname.len(), 63);
        let config = RelayConfig {
            hostname: Some("_".into()),
            ..Default::default()
        };
        assert_eq!(options(config).unwrap().tailnet.hostname, "relay");
    }
}
