//! Subcommand `operator`: the operator in a cluster.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, ValueEnum};

use crate::{
    config::forms::{self, FormError},
    crd::monitoring::Relabeling,
    names,
    operator::{
        OperatorOptions,
        defaults::{
            InvalidDefault, MonitoringDefaults, TemplateDefaults, duration, label, milliseconds,
            relabelings, template, variable,
        },
        lease::Times,
    },
};

/// TCP port of the operator's server for metrics if none is set.
const DEFAULT_METRICS_PORT: u16 = 8080;

#[derive(Args)]
#[command(
    after_help = "The operator connects with the pod's service account, or with KUBECONFIG. \
    The cluster needs the custom resource definitions that 'peerrelay crd' prints, and the \
    permissions in the chart. The operator reads the Secrets with OAuth clients that it is allowed \
    to read, and no others: nodes mount auth keys into relays."
)]
pub(super) struct OperatorArgs {
    /// Address and port of /metrics, /healthz and /readyz
    #[arg(long, value_name = "IP:PORT", env = "PEERRELAY_METRICS_ADDR", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_METRICS_PORT)), value_parser = metrics_addr)]
    metrics_addr: SocketAddr,
    /// Namespaces whose PeerRelays are reconciled [default: all]
    #[arg(
        long,
        value_name = "NAMESPACE,...",
        env = "PEERRELAY_WATCH_NAMESPACES",
        value_delimiter = ',',
        value_parser = namespace
    )]
    watch_namespaces: Vec<String>,
    /// Number of PeerRelays that are reconciled at the same time
    #[arg(long, value_name = "COUNT", env = "PEERRELAY_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Name of the operator's own pod, in the namespace of the lease. Relays run its image, and the
    /// lease has the owner of the pod as its owner
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: Option<String>,
    /// Directory with tokens of the operator's ServiceAccount for PeerRelays with workloadIdentity.
    /// Each file has one token, for the audience of a federated identity
    #[arg(
        long,
        value_name = "DIR",
        env = "PEERRELAY_TOKEN_DIR",
        default_value = "/var/run/secrets/peerrelay.dev"
    )]
    token_dir: PathBuf,
    #[command(flatten)]
    election: ElectionArgs,
    #[command(flatten)]
    relays: RelayArgs,
    #[command(flatten)]
    monitoring: MonitoringArgs,
}

/// Election of the replica that acts.
#[derive(Args)]
#[command(next_help_heading = "Leader election")]
struct ElectionArgs {
    /// Namespace of the operator, in which the lease and the Secrets of TailnetCredentials are.
    /// Without it, there is no election, and every replica acts
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of the lease
    #[arg(long, value_name = "NAME", env = "PEERRELAY_LEASE_NAME", default_value = names::OPERATOR)]
    lease_name: String,
    /// Time after which a lease that was not renewed expires
    #[arg(long, value_name = "DURATION", env = "PEERRELAY_LEASE_DURATION", default_value = "15s", value_parser = length)]
    lease_duration: Duration,
    /// Time after which a leader that could not renew the lease stops acting
    #[arg(long, value_name = "DURATION", env = "PEERRELAY_RENEW_DEADLINE", default_value = "10s", value_parser = length)]
    renew_deadline: Duration,
    /// Time between two attempts to acquire or renew the lease
    #[arg(long, value_name = "DURATION", env = "PEERRELAY_RETRY_PERIOD", default_value = "2s", value_parser = length)]
    retry_period: Duration,
    /// Name of this replica [default: the name of the pod or host]
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
}

/// Defaults for the relays of all PeerRelays. A PeerRelay's `spec.template` takes precedence.
#[derive(Args)]
#[command(next_help_heading = "Defaults for the relays of all PeerRelays")]
struct RelayArgs {
    /// Image of relays [default: the image of the operator's own pod]
    #[arg(long, value_name = "IMAGE", env = "PEERRELAY_RELAY_IMAGE")]
    relay_image: Option<String>,
    /// Pull policy of the image [default: the pull policy of the operator's own pod]
    #[arg(long, value_enum, env = "PEERRELAY_RELAY_IMAGE_PULL_POLICY")]
    relay_image_pull_policy: Option<PullPolicy>,
    /// Defaults for spec.template as JSON or YAML: resources, labels, annotations,
    /// imagePullSecrets, priorityClassName and updateStrategy
    #[arg(long, value_name = "TEMPLATE", env = "PEERRELAY_RELAY_TEMPLATE")]
    relay_template: Option<String>,
    /// Environment variables of relays, one per line, such as
    /// HTTPS_PROXY=http://proxy.example.net:3128
    #[arg(long, value_name = "NAME=VALUE", env = "PEERRELAY_RELAY_ENV", value_delimiter = '\n', value_parser = variable)]
    relay_env: Vec<(String, String)>,
}

impl RelayArgs {
    fn template(&self) -> Result<TemplateDefaults, InvalidDefault> {
        let text = self.relay_template.as_deref();
        Ok(TemplateDefaults {
            template: text.map(template).transpose()?.unwrap_or_default(),
            environment: self.relay_env.iter().cloned().collect(),
        })
    }
}

/// Defaults for `spec.monitoring` of all PeerRelays.
#[derive(Args)]
#[command(next_help_heading = "Defaults for spec.monitoring of all PeerRelays")]
struct MonitoringArgs {
    /// Labels of every ServiceMonitor and PrometheusRule, for the selectors of your Prometheus
    #[arg(long = "relay-monitoring-labels", value_name = "KEY=VALUE", env = "PEERRELAY_RELAY_MONITORING_LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Time between two scrapes, such as 30s
    #[arg(long = "relay-monitoring-interval", value_name = "DURATION", env = "PEERRELAY_RELAY_MONITORING_INTERVAL", value_parser = duration)]
    interval: Option<String>,
    /// Time after which a scrape fails, such as 10s
    #[arg(long = "relay-monitoring-scrape-timeout", value_name = "DURATION", env = "PEERRELAY_RELAY_MONITORING_SCRAPE_TIMEOUT", value_parser = duration)]
    scrape_timeout: Option<String>,
    /// Relabeling rules for targets, a list as in a ServiceMonitor, as JSON or YAML
    #[arg(
        long = "relay-monitoring-relabelings",
        value_name = "LIST",
        env = "PEERRELAY_RELAY_MONITORING_RELABELINGS"
    )]
    relabelings: Option<String>,
    /// Relabeling rules for scraped series, a list as in a ServiceMonitor, as JSON or YAML
    #[arg(
        long = "relay-monitoring-metric-relabelings",
        value_name = "LIST",
        env = "PEERRELAY_RELAY_MONITORING_METRIC_RELABELINGS"
    )]
    metric_relabelings: Option<String>,
}

impl MonitoringArgs {
    fn defaults(self) -> Result<MonitoringDefaults, InvalidDefault> {
        let rules = |text: Option<String>| -> Result<Vec<Relabeling>, _> {
            text.map_or_else(|| Ok(Vec::new()), |text| relabelings(&text))
        };
        MonitoringDefaults {
            labels: self.labels.into_iter().collect(),
            interval: self.interval,
            scrape_timeout: self.scrape_timeout,
            relabelings: rules(self.relabelings)?,
            metric_relabelings: rules(self.metric_relabelings)?,
        }
        .checked()
    }
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    fn name(self) -> String {
        let name = match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        };
        name.to_owned()
    }
}

impl OperatorArgs {
    /// Converts the arguments to the options of the operator.
    ///
    /// # Errors
    /// Defaults for PeerRelays contradict each other or cannot be parsed, or the times of the
    /// election contradict each other.
    pub(super) fn options(self) -> anyhow::Result<OperatorOptions> {
        let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let unique = || format!("{}-{:08x}", host().trim(), rand::random::<u32>());
        let identity = self.election.identity.or_else(|| self.pod_name.clone());
        let times = Times {
            duration: self.election.lease_duration,
            deadline: self.election.renew_deadline,
            retry: self.election.retry_period,
        };
        Ok(OperatorOptions {
            template: self.relays.template()?,
            image: self.relays.relay_image,
            pull_policy: self.relays.relay_image_pull_policy.map(PullPolicy::name),
            monitoring: self.monitoring.defaults()?,
            metrics_addr: self.metrics_addr,
            namespaces: self.watch_namespaces,
            concurrency: self.concurrency,
            lease_namespace: self.election.lease_namespace,
            lease_name: self.election.lease_name,
            lease_times: times.checked()?,
            pod: self.pod_name,
            identity: identity.unwrap_or_else(unique),
            tokens: self.token_dir,
        })
    }
}

/// Parses the address of the server for metrics.
fn metrics_addr(text: &str) -> Result<SocketAddr, FormError> {
    forms::listen_address(text, DEFAULT_METRICS_PORT)
}

/// Parses the name of a namespace.
fn namespace(text: &str) -> Result<String, String> {
    match names::is_dns_label(text) {
        true => Ok(text.to_owned()),
        false => Err("not the name of a namespace: write them as relays,relays-eu".to_owned()),
    }
}

/// Parses a duration such as 15s.
fn length(text: &str) -> Result<Duration, InvalidDefault> {
    let parsed = milliseconds(text).map(Duration::from_millis);
    parsed.ok_or_else(|| InvalidDefault::Duration(text.to_owned()))
}
