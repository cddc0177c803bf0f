//! `peerrelay operator`.

use std::{fs, net::SocketAddr};

use clap::{Args, ValueEnum};

use super::endpoint;
use crate::operator::{OperatorOptions, validate::RelayImage};

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
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl OperatorArgs {
    pub(super) fn options(self) -> OperatorOptions {
        let pull_policy = match self.relay_image_pull_policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        };
        let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = self
            .identity
            .unwrap_or_else(|| format!("{}-{:08x}", host().trim(), rand::random::<u32>()));
        OperatorOptions {
            image: RelayImage {
                reference: self.relay_image,
                pull_policy: pull_policy.to_owned(),
            },
            metrics_addr: self.metrics_addr,
            lease_namespace: self.lease_namespace,
            identity,
        }
    }
}
