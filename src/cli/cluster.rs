//! Connection of commands to a cluster, with the flags of kubectl.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Longest time for a connection to the API server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time without an answer of the API server.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Cluster of a command, and the namespaces in it.
#[derive(Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// Namespace [default: that of the context]
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        conflicts_with = "all_namespaces"
    )]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Kubeconfig [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl ClusterArgs {
    /// Makes a client for the cluster.
    ///
    /// # Errors
    /// There is no kubeconfig, or it has no such context, or the context cannot be used.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        let kubeconfig = match &self.kubeconfig {
            Some(path) => Kubeconfig::read_from(path)
                .with_context(|| format!("failed to read the kubeconfig {}", path.display()))?,
            None => kubeconfig("name it with --kubeconfig")?,
        };
        connect(kubeconfig, self.context.as_deref()).await
    }

    /// Returns the namespace that `-n` names.
    pub(super) fn given_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// Returns the namespace of the command as kubectl chooses it, or nothing for all.
    pub(super) fn namespace(&self, client: &Client) -> Option<String> {
        let own = || client.default_namespace().to_owned();
        (!self.all_namespaces).then(|| self.namespace.clone().unwrap_or_else(own))
    }
}

/// Makes a client for a context of the kubeconfig, or for its current context. `alternative` is
/// what the user can do instead, and completes "set KUBECONFIG, or".
///
/// # Errors
/// There is no kubeconfig, or it has no such context, or the context cannot be used.
pub(super) async fn client(context: Option<&str>, alternative: &str) -> anyhow::Result<Client> {
    connect(kubeconfig(alternative)?, context).await
}

fn kubeconfig(alternative: &str) -> anyhow::Result<Kubeconfig> {
    Kubeconfig::read()
        .with_context(|| format!("failed to read the kubeconfig: set KUBECONFIG, or {alternative}"))
}

async fn connect(kubeconfig: Kubeconfig, context: Option<&str>) -> anyhow::Result<Client> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.context("failed to use the kubeconfig")?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Client::try_from(config).context("failed to use the kubeconfig")
}
