//! Subcommand `relay`: a relay on this host.

use std::{fs, net::SocketAddr, num::NonZero, path::PathBuf};

use clap::Args;
use url::Url;

use crate::{
    config::{
        DEFAULT_CONTROL_URL, DEFAULT_METRICS_PORT, DEFAULT_PORT, DEFAULT_STATE_DIR, RelayConfig,
        data_path::DataPath,
        endpoints::{EndpointsConfig, StaticEndpoint},
        forms::{self, FormError},
        port::RelayPort,
    },
    relay::{
        options::{Environment, RelayOptions},
        reload::Reload,
    },
};

/// Flags take precedence over the environment, the environment over the file, and the file over
/// defaults.
#[derive(Args, Clone)]
#[command(
    after_help = "Example: a relay on a host with a public address and no Kubernetes\n  \
    peerrelay relay --auth-key-file /etc/peerrelay/authkey --tag tag:relay-office \\\n    \
    --static-endpoint 203.0.113.10:40000\n\nThe auth key is read from a file or from \
    PEERRELAY_AUTH_KEY. It is never an argument, because every user of the host can see arguments. \
    The host's firewall must allow the UDP port."
)]
pub(super) struct RelayArgs {
    /// URL of the control server [default: the control server of tailscale.com]
    #[arg(long, value_name = "URL", env = "PEERRELAY_CONTROL_URL", value_parser = forms::control_url, help = format!("URL of the control server [default: {DEFAULT_CONTROL_URL}]"))]
    control_url: Option<Url>,
    /// File with the auth key. It is read again while it is missing or refused
    #[arg(long, value_name = "FILE", env = "PEERRELAY_AUTH_KEY_FILE")]
    auth_key_file: Option<PathBuf>,
    /// PEM file with additional certificate authorities
    #[arg(long, value_name = "FILE", env = "PEERRELAY_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// Directory for the relay's identity
    #[arg(long, value_name = "DIR", env = "PEERRELAY_STATE_DIR", help = format!("Directory for the relay's identity, created with mode 0700 [default: {DEFAULT_STATE_DIR}]"))]
    state_dir: Option<PathBuf>,
    /// Directory in which a relay leaves its sessions for its successor, preferably in memory, such
    /// as a directory in /run [default: RUNTIME_DIRECTORY of systemd, or else the state directory]
    #[arg(long, value_name = "DIR", env = "PEERRELAY_SESSION_DIR")]
    session_dir: Option<PathBuf>,
    /// Name of the tailnet device [default: the name of the host]
    #[arg(long, value_name = "NAME", env = "PEERRELAY_HOSTNAME", value_parser = forms::hostname)]
    hostname: Option<String>,
    /// Tag to request; can be repeated or separated by commas
    #[arg(
        long = "tag",
        value_name = "TAG",
        env = "PEERRELAY_TAGS",
        value_delimiter = ','
    )]
    tags: Vec<String>,
    /// Register an ephemeral device, which the control server removes when it is offline
    #[arg(long, env = "PEERRELAY_EPHEMERAL", num_args = 0..=1, default_missing_value = "true")]
    ephemeral: Option<bool>,
    /// UDP port of the relay. An empty port turns it off
    #[arg(long, value_name = "PORT", env = "PEERRELAY_PORT", help = format!("UDP port on IPv4 and IPv6. An empty port (\"\") turns the relay off: it binds no port and does not join the tailnet [default: {DEFAULT_PORT}]"))]
    port: Option<RelayPort>,
    /// Number of threads that forward [default: one per core, at most 8]
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_THREADS", value_parser = forms::count::<NonZero<usize>>)]
    threads: Option<NonZero<usize>>,
    /// Address or name that is advertised first; can be repeated or separated by commas
    #[arg(
        long = "static-endpoint",
        value_name = "HOST:PORT",
        env = "PEERRELAY_STATIC_ENDPOINTS",
        value_delimiter = ','
    )]
    static_endpoints: Vec<StaticEndpoint>,
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, value_name = "IP:PORT", env = "PEERRELAY_METRICS_ADDR", value_parser = metrics_addr, help = format!("Address and port of /metrics, /healthz and /readyz [default: 127.0.0.1:{DEFAULT_METRICS_PORT}]"))]
    metrics_addr: Option<SocketAddr>,
    /// Data path that forwards packets of open sessions [default: auto]
    #[arg(long, value_enum, ignore_case = true, env = "PEERRELAY_DATA_PATH")]
    data_path: Option<DataPath>,
    /// Maximum number of sessions [default: 65536]
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_MAX_SESSIONS", value_parser = forms::count::<NonZero<usize>>)]
    max_sessions: Option<NonZero<usize>>,
    /// Maximum number of sessions that one tailnet node may request [default: 4096]
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_MAX_SESSIONS_PER_NODE", value_parser = forms::count::<NonZero<usize>>)]
    max_sessions_per_node: Option<NonZero<usize>>,
    /// Maximum number of sessions that all nodes with the same tag may request together, for each
    /// tag [default: unlimited]
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_MAX_SESSIONS_PER_TAG", value_parser = forms::count::<NonZero<usize>>)]
    max_sessions_per_tag: Option<NonZero<usize>>,
    /// Maximum bandwidth of the relay, in megabits of UDP payload per second [default: unlimited]
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_MAX_MEGABITS_PER_SECOND", value_parser = forms::count::<NonZero<u32>>)]
    max_megabits_per_second: Option<NonZero<u32>>,
    /// Maximum bandwidth of each session, both directions together, in megabits of UDP payload per
    /// second [default: unlimited]
    #[arg(
        long,
        value_name = "COUNT",
        env = "PEERRELAY_MAX_MEGABITS_PER_SECOND_PER_SESSION",
        value_parser = forms::count::<NonZero<u32>>
    )]
    max_megabits_per_second_per_session: Option<NonZero<u32>>,
    /// YAML file with any of these settings
    #[arg(long, value_name = "FILE", env = "PEERRELAY_CONFIG")]
    config: Option<PathBuf>,
}

impl RelayArgs {
    pub(super) fn options(&self) -> anyhow::Result<RelayOptions> {
        let given = self.clone();
        let (file, unknown) = match &self.config {
            Some(path) => RelayConfig::read(path)?,
            None => (RelayConfig::default(), Vec::new()),
        };
        let flags = RelayConfig {
            control_url: given.control_url,
            auth_key_file: given.auth_key_file,
            ca_file: given.ca_file,
            state_dir: given.state_dir,
            session_dir: given.session_dir,
            hostname: given.hostname,
            tags: given.tags,
            ephemeral: given.ephemeral,
            port: given.port,
            threads: given.threads,
            endpoints: EndpointsConfig {
                fixed: given.static_endpoints,
                ..EndpointsConfig::default()
            },
            metrics_addr: given.metrics_addr,
            data_path: given.data_path,
            max_megabits_per_second: given.max_megabits_per_second,
            max_megabits_per_second_per_session: given.max_megabits_per_second_per_session,
            max_sessions: given.max_sessions.map(NonZero::get),
            max_sessions_per_node: given.max_sessions_per_node.map(NonZero::get),
            max_sessions_per_tag: given.max_sessions_per_tag.map(NonZero::get),
            ..RelayConfig::default()
        };
        let environment = Environment {
            auth_key: std::env::var("PEERRELAY_AUTH_KEY")
                .ok()
                .filter(|key| !key.is_empty()),
            node_name: std::env::var("NODE_NAME").ok(),
            pod_name: std::env::var("POD_NAME").ok(),
            runtime_dir: std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from),
            host_ip: std::env::var("HOST_IP").ok().and_then(|ip| ip.parse().ok()),
            host_name: fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .map(|n| n.trim().into()),
        };
        let flags_alone = flags.endpoints.clone();
        let mut options = RelayOptions::new(flags.over(file), environment)?;
        options.reload = Reload {
            file: given.config,
            over: flags_alone,
            over_port: self.port.is_some(),
            node: options.node_name.clone(),
            unknown,
        };
        Ok(options)
    }
}

/// Parses the address of the server for metrics and probes.
fn metrics_addr(text: &str) -> Result<SocketAddr, FormError> {
    forms::listen_address(text, DEFAULT_METRICS_PORT)
}
