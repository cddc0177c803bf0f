//! `peerrelay operator`.

use std::{fs, net::SocketAddr};

use clap::{Args, ValueEnum};

use super::endpoint;
use crate::{
    crd::monitoring::Relabeling,
    operator::{
        OperatorOptions,
        defaults::{InvalidDefault, MonitoringDefaults, duration, label, relabelings},
        validate::RelayImage,
    },
};

#[derive(Args)]
#[command(
    after_help = "The cluster is the one of the pod's service account, or of KUBECONFIG. It \
    needs the custom resource definitions that 'peerrelay crd' prints, and the permissions in the \
    chart. The operator reads no Secrets: auth keys are mounted into relays by their nodes."
)]
pub(super) struct OperatorArgs {
    /// Image that relays run
    #[arg(long, value_name = "IMAGE", env = "PEERRELAY_RELAY_IMAGE", default_value = concat!("ghcr.io/peerrelay/peerrelay:", env!("CARGO_PKG_VERSION")))]
    relay_image: String,
    /// When nodes pull it
    #[arg(
        long,
        value_enum,
        env = "PEERRELAY_RELAY_IMAGE_PULL_POLICY",
        default_value = "IfNotPresent"
    )]
    relay_image_pull_policy: PullPolicy,
    /// Where to serve /metrics, /healthz and /readyz
    #[arg(long, value_name = "IP:PORT", env = "PEERRELAY_METRICS_ADDR", default_value = "[::]:8080", value_parser = endpoint)]
    metrics_addr: SocketAddr,
    /// Namespace of the lease by which one of several replicas is elected; all act without
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this replica [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    identity: Option<String>,
    #[command(flatten)]
    monitoring: MonitoringArgs,
}

/// Defaults for `spec.monitoring` of all PeerRelays.
#[derive(Args)]
#[command(next_help_heading = "Defaults for spec.monitoring of all PeerRelays")]
struct MonitoringArgs {
    /// Labels of every ServiceMonitor and PrometheusRule, by which your Prometheus selects them
    #[arg(long = "relay-monitoring-labels", value_name = "KEY=VALUE", env = "PEERRELAY_RELAY_MONITORING_LABELS", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// Time between two scrapes, such as 30s
    #[arg(long = "relay-monitoring-interval", value_name = "DURATION", env = "PEERRELAY_RELAY_MONITORING_INTERVAL", value_parser = duration)]
    interval: Option<String>,
    /// Time after which a scrape has failed, such as 10s
    #[arg(long = "relay-monitoring-scrape-timeout", value_name = "DURATION", env = "PEERRELAY_RELAY_MONITORING_SCRAPE_TIMEOUT", value_parser = duration)]
    scrape_timeout: Option<String>,
    /// Rules for labels of targets, a list as in a ServiceMonitor, JSON or YAML
    #[arg(
        long = "relay-monitoring-relabelings",
        value_name = "LIST",
        env = "PEERRELAY_RELAY_MONITORING_RELABELINGS"
    )]
    relabelings: Option<String>,
    /// Rules for scraped series, a list as in a ServiceMonitor, JSON or YAML
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

impl OperatorArgs {
    /// Options as the operator takes them.
    ///
    /// # Errors
    /// Defaults for PeerRelays contradict each other or cannot be read.
    pub(super) fn options(self) -> Result<OperatorOptions, InvalidDefault> {
        let pull_policy = match self.relay_image_pull_policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        };
        let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = self
            .identity
            .unwrap_or_else(|| format!("{}-{:08x}", host().trim(), rand::random::<u32>()));
        Ok(OperatorOptions {
            image: RelayImage {
                reference: self.relay_image,
                pull_policy: pull_policy.to_owned(),
            },
            monitoring: self.monitoring.defaults()?,
            metrics_addr: self.metrics_addr,
            lease_namespace: self.lease_namespace,
            identity,
        })
    }
}
