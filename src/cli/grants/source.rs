//! PeerRelays that a policy file is for: from manifests, or from a cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use kube::{Api, api::ListParams};

use crate::{
    cli::{block_on, cluster, input::is_standard, manifests::Files},
    crd::{PeerRelay, PeerRelayStatus},
    operator::{
        defaults::Defaults,
        referred_credential::Referred,
        validate::{ValidSpec, validate},
    },
};

#[derive(Args)]
pub(super) struct Source {
    /// File or directory with PeerRelays, or '-' for standard input; can be repeated
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Read the PeerRelays of a cluster. Without a name, it is the current context of the kubeconfig
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with = "files"
    )]
    context: Option<String>,
    /// Namespace of the PeerRelays in the cluster [default: all namespaces]
    #[arg(short, long, value_name = "NAMESPACE", requires = "context")]
    namespace: Option<String>,
}

/// PeerRelay with its status, if it was read from a cluster.
pub(super) struct Found {
    pub(super) spec: ValidSpec,
    pub(super) status: Option<PeerRelayStatus>,
}

impl Source {
    /// Checks that standard input is not both the policy file and a file with PeerRelays.
    ///
    /// # Errors
    /// It is both.
    pub(super) fn check_input_of(&self, policy: &Path) -> anyhow::Result<()> {
        ensure!(
            !(is_standard(policy) && self.files.iter().any(|file| is_standard(file))),
            "standard input can be read once only: give a file for the policy or for -f"
        );
        Ok(())
    }

    /// Returns whether PeerRelays are named.
    pub(super) const fn is_given(&self) -> bool {
        self.context.is_some() || !self.files.is_empty()
    }

    /// Reads the PeerRelays.
    ///
    /// # Errors
    /// No source is named, it cannot be read, or a PeerRelay is invalid.
    pub(super) fn peer_relays(&self) -> anyhow::Result<Vec<Found>> {
        ensure!(
            self.is_given(),
            "name the PeerRelays: -f FILE for manifests, or --context for a cluster"
        );
        if let Some(context) = &self.context {
            let listed = block_on(list(context, self.namespace.as_deref()));
            return listed?.into_iter().map(found).collect();
        }
        let relays = Files::new(self.files.clone()).relays()?;
        let found = |spec| Found { spec, status: None };
        Ok(relays.into_iter().map(found).collect())
    }
}

fn found(mut relay: PeerRelay) -> anyhow::Result<Found> {
    let status = relay.status.take();
    let spec = validate(&relay, &Referred::Unknown, &Defaults::default()).with_context(|| {
        let metadata = &relay.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        format!("PeerRelay {namespace}/{name} is invalid")
    })?;
    Ok(Found { spec, status })
}

/// Lists the PeerRelays that are not being deleted.
async fn list(context: &str, namespace: Option<&str>) -> anyhow::Result<Vec<PeerRelay>> {
    let context = Some(context).filter(|context| !context.is_empty());
    let client = cluster::client(context, "give the PeerRelays with -f").await?;
    let api: Api<PeerRelay> = match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let listed = api.list(&ListParams::default()).await.context(
        "failed to list PeerRelays: the context needs the right to list peerrelays.peerrelay.dev, \
         in all namespaces or in the one of --namespace",
    )?;
    let mut relays = listed.items;
    relays.retain(|relay| relay.metadata.deletion_timestamp.is_none());
    Ok(relays)
}
