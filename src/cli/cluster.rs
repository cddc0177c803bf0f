//! Connection of commands to a cluster.

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Makes a client for a context of the kubeconfig, or for its current context. `alternative` is
/// what the user can do instead, and completes "set KUBECONFIG, or".
///
/// # Errors
/// There is no kubeconfig, or it has no such context, or the context cannot be used.
pub(super) async fn client(context: Option<&str>, alternative: &str) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read().with_context(|| {
        format!("failed to read the kubeconfig: set KUBECONFIG, or {alternative}")
    })?;
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.context("failed to use the kubeconfig")?;
    Client::try_from(config).context("failed to use the kubeconfig")
}
