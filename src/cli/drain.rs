//! Subcommands `drain` and `undrain`: take the relays off a node, and allow them again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    cluster::ClusterArgs,
    output::{print, print_error},
    reader::Reader,
};
use crate::{
    config::withdrawals,
    crd::RelayNode,
    names::{DRAIN_LABEL, DRAIN_REMOVE, DRAIN_WITHDRAW},
};

/// Time between two reads.
const PAUSE: Duration = Duration::from_secs(2);
/// Time in which the operator asks a relay to accept no new sessions.
const ASKED_WITHIN: Duration = Duration::from_secs(15);
/// Time beyond the limit of a withdrawal in which relays end.
const MARGIN: Duration = Duration::from_secs(60);

#[derive(Args)]
#[command(after_help = "\
Example: before the maintenance of a node, and afterwards
  peerrelay drain node-1
  peerrelay undrain node-1

'kubectl drain' does not remove relays, because DaemonSets own them. This command sets the label \
peerrelay.dev/drain of the node to 'withdraw': its relays accept no new sessions, if another relay \
of the region is ready. When clients have left, or after two minutes, it sets the label to \
'remove': the relays end, and the operator chooses other nodes where the number of relays is \
limited. You need the rights to patch nodes and to list relaynodes.peerrelay.dev in all \
namespaces.

Exit codes: 0 if no relay runs on the node any more, 1 if one does or the API server cannot be \
reached, 2 for incorrect usage. If the command is interrupted, run it again.")]
pub(super) struct DrainArgs {
    /// Node whose relays end
    node: String,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Set the label to 'remove' at once. Where the number of relays is limited, the operator still
    /// lets clients leave first, for two minutes at most
    #[arg(long)]
    now: bool,
}

impl DrainArgs {
    /// Takes the relays off the node.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.cluster.client().await?;
        let before = relays(&client, &self.node).await?.len();
        if before > 0 && !self.now {
            label(&client, &self.node, Some(DRAIN_WITHDRAW)).await?;
            withdrawn(&client, &self.node).await?;
        }
        label(&client, &self.node, Some(DRAIN_REMOVE)).await?;
        removed(&client, &self.node).await?;
        let node = &self.node;
        print(&format!(
            "{node} drained: {before} relay(s) removed; kubectl peer-relay undrain {node} allows relays again\n"
        ))?;
        Ok(())
    }
}

#[derive(Args)]
#[command(after_help = "\
The command removes the label peerrelay.dev/drain from the node. Where the number of relays is \
limited, the relays stay on the nodes that were chosen meanwhile.

Exit codes: 0 if the node has no such label any more, 1 if the API server refuses or cannot be \
reached, 2 for incorrect usage.")]
pub(super) struct UndrainArgs {
    /// Node that may have relays again
    node: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl UndrainArgs {
    /// Allows relays on the node again.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.cluster.client().await?;
        label(&client, &self.node, None).await?;
        print(&format!("{} may have relays again\n", self.node))?;
        Ok(())
    }
}

/// Waits until clients have left the relays of a node, or the limit of their withdrawal.
async fn withdrawn(client: &Client, node: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut said = String::new();
    loop {
        let relays = relays(client, node).await?;
        let text = progress(&relays);
        if text != said {
            print_error(format_args!("[{:>3} s] {text}", start.elapsed().as_secs()));
            said = text;
        }
        let waited = start.elapsed();
        let waits = relays.iter().any(|relay| state(relay) == State::InUse)
            || waited < ASKED_WITHIN && relays.iter().any(|relay| state(relay) == State::Serves);
        if !waits || waited > withdrawals::LIMIT {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// Waits until no relay is left on a node.
///
/// # Errors
/// Some are left after the limit of a withdrawal.
async fn removed(client: &Client, node: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let relays = relays(client, node).await?;
        if relays.is_empty() {
            return Ok(());
        }
        if start.elapsed() > withdrawals::LIMIT + MARGIN {
            let names: Vec<_> = relays.iter().map(ResourceExt::name_any).collect();
            bail!(
                "relays are still on the node: {}; kubectl peer-relay check shows whether the operator runs",
                names.join(", ")
            );
        }
        sleep(PAUSE).await;
    }
}

/// State of a relay that is asked to accept no new sessions.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It accepts new sessions: it has not been asked yet, or its region has no other ready relay.
    Serves,
    /// It accepts none, and clients use sessions.
    InUse,
    /// No client uses a session.
    Left,
}

fn state(relay: &RelayNode) -> State {
    let status = relay.status.as_ref();
    match status.and_then(|status| status.withdrawal.as_ref()) {
        None => State::Serves,
        Some(withdrawal) if withdrawal.complete => State::Left,
        Some(_) => State::InUse,
    }
}

/// Returns the number of relays in each state, in a sentence.
fn progress(relays: &[RelayNode]) -> String {
    let mut states = BTreeMap::new();
    for relay in relays {
        *states.entry(state(relay)).or_insert(0) += 1;
    }
    let parts = states.into_iter().map(|(state, count)| {
        let what = match state {
            State::Serves => {
                "relay(s) accept sessions: not asked yet, or no other relay of the region is ready"
            }
            State::InUse => "relay(s) wait until clients leave",
            State::Left => "relay(s) without clients",
        };
        format!("{count} {what}")
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// Returns the relays on a node.
async fn relays(client: &Client, node: &str) -> anyhow::Result<Vec<RelayNode>> {
    let reader = Reader {
        client,
        namespace: None,
    };
    let mut all = reader.within::<RelayNode>("").await?;
    all.retain(|relay| relay.spec.node_name == node);
    Ok(all)
}

/// Sets or removes the label of a node with its drain.
async fn label(client: &Client, node: &str, value: Option<&str>) -> anyhow::Result<()> {
    let api = Api::<Node>::all(client.clone());
    let patch = json!({"metadata": {"labels": {DRAIN_LABEL: value}}});
    let patched = api
        .patch(node, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("there is no node {node}: kubectl get nodes lists them")
        }
        Err(kube::Error::Api(status)) if status.code == 403 => bail!(
            "you may not patch nodes: ask an administrator to run kubectl label node {node} {DRAIN_LABEL}{}",
            value.map_or_else(|| "-".to_owned(), |value| format!("={value} --overwrite"))
        ),
        Err(error) => Err(error).context("failed to label the node"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn relay(withdrawal: Option<bool>) -> RelayNode {
        let withdrawal = withdrawal
            .map(|complete| json!({"since": "2026-01-01T00:00:00Z", "complete": complete}));
        serde_json::from_value(json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode", "metadata": {"name": "edge"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": "1", "dataPath": "Socket", "withdrawal": withdrawal},
        }))
        .unwrap()
    }

    #[test]
    fn progress_counts_relays_by_what_they_wait_for() {
        let relays = [relay(Some(true)), relay(Some(false)), relay(Some(true))];
        assert_eq!(
            progress(&relays),
            "1 relay(s) wait until clients leave; 2 relay(s) without clients"
        );
        assert_eq!(state(&relay(None)), State::Serves);
        assert_eq!(progress(&[]), "");
    }
}
