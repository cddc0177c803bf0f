//! Subcommand `status`: PeerRelays and their relays, with what is wrong.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::{Args, ValueEnum};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    cluster::ClusterArgs,
    output::{print, print_error},
    reader::Reader,
    table::{cell, table},
};
use crate::{
    check::{
        self,
        facts::{Known, Unread},
    },
    crd::{PeerRelay, PeerRelayStatus, RelayNode, RelayNodeStatus, probe::Verified},
};

/// Time between two reads with `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "\
Examples: all PeerRelays with their relays, or one, again after each change
  peerrelay status -A
  peerrelay status edge -n relays --watch

Exit codes: 0 if every PeerRelay is ready, 1 if one is not, there is none, or the API server \
cannot be reached, 2 for incorrect usage, 141 if standard output is closed.")]
pub(super) struct StatusArgs {
    /// PeerRelay to show [default: all]
    name: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Print the status again after each change, until Ctrl-C
    #[arg(short, long, conflicts_with = "output")]
    watch: bool,
    /// Output format [default: a table]
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Table with endpoints, reasons and versions
    Wide,
    /// Objects as JSON
    Json,
    /// Objects as YAML
    Yaml,
    /// Kinds and names
    Name,
}

/// Objects of the namespaces that are shown.
struct Shown {
    relays: Vec<PeerRelay>,
    nodes: Vec<RelayNode>,
}

impl StatusArgs {
    /// Prints the status once, or again after each change.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.cluster.client().await?;
        let namespace = self.cluster.namespace(&client);
        let reader = Reader {
            client: &client,
            namespace: namespace.as_deref(),
        };
        let mut last = String::new();
        loop {
            let shown = self.read(reader).await?;
            let text = self.text(&shown)?;
            if text != last {
                let gap = if last.is_empty() { "" } else { "\n" };
                print(&format!("{gap}{text}"))?;
                last = text;
            }
            if !self.watch {
                return Ok(self.judge(&shown, namespace.as_deref()));
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&self, reader: Reader<'_>) -> anyhow::Result<Shown> {
        let mut relays = read(reader.within::<PeerRelay>("").await)?;
        let mut nodes = read(reader.within::<RelayNode>("").await)?;
        if let Some(name) = &self.name {
            relays.retain(|relay| relay.name_any() == *name);
            nodes.retain(|node| node.spec.peer_relay == *name);
        }
        relays.sort_by_key(|relay| (relay.namespace(), relay.name_any()));
        nodes.sort_by_key(|node| {
            (
                node.namespace(),
                node.spec.peer_relay.clone(),
                node.name_any(),
            )
        });
        Ok(Shown { relays, nodes })
    }

    fn text(&self, shown: &Shown) -> anyhow::Result<String> {
        Ok(match self.output {
            None => tables(shown, false),
            Some(Output::Wide) => tables(shown, true),
            Some(Output::Json) => format!("{}\n", serde_json::to_string_pretty(&list(shown)?)?),
            Some(Output::Yaml) => serde_yaml::to_string(&list(shown)?)?,
            Some(Output::Name) => names(shown),
        })
    }

    fn judge(&self, shown: &Shown, namespace: Option<&str>) -> ExitCode {
        if shown.relays.is_empty() {
            let what = self.name.as_ref().map_or_else(
                || "no PeerRelay".to_owned(),
                |name| format!("no PeerRelay {name}"),
            );
            match namespace {
                Some(namespace) => print_error(format_args!(
                    "there is {what} in namespace {namespace}: -A shows all namespaces"
                )),
                None => print_error(format_args!("there is {what} in the cluster")),
            }
        }
        let is_ready = |relay: &PeerRelay| condition(relay, "Ready").0 == "True";
        match !shown.relays.is_empty() && shown.relays.iter().all(is_ready) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

fn read<K>(known: Known<K>) -> anyhow::Result<Vec<K>> {
    match known {
        Ok(objects) => Ok(objects),
        Err(Unread::NoSuchKind) => bail!(
            "the cluster has no PeerRelays (peerrelays.peerrelay.dev): install the operator, or \
             choose another cluster with --context"
        ),
        Err(Unread::Forbidden {
            resource,
            namespace: None,
        }) => bail!("you may not list {resource} in all namespaces: name one with -n"),
        Err(Unread::Forbidden {
            resource,
            namespace: Some(namespace),
        }) => bail!(
            "you may not list {resource} in namespace {namespace}: ask an administrator for the \
             right, or name another namespace with -n"
        ),
        Err(Unread::Failed { resource, error }) => bail!("failed to list {resource}: {error}"),
    }
}

/// Returns the objects as a list that kubectl could have printed.
fn list(shown: &Shown) -> anyhow::Result<Value> {
    let mut items = Vec::new();
    for relay in &shown.relays {
        items.push(object(relay)?);
    }
    for node in &shown.nodes {
        items.push(object(node)?);
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// Returns an object with its kind, which items of typed lists lack.
fn object<K: Resource<DynamicType = ()> + serde::Serialize>(item: &K) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(item)?;
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(value)
}

fn names(shown: &Shown) -> String {
    let relays = shown
        .relays
        .iter()
        .map(|relay| format!("peerrelay.peerrelay.dev/{}\n", relay.name_any()));
    let nodes = shown
        .nodes
        .iter()
        .map(|node| format!("relaynode.peerrelay.dev/{}\n", node.name_any()));
    relays.chain(nodes).collect()
}

fn tables(shown: &Shown, wide: bool) -> String {
    if shown.relays.is_empty() {
        return String::new();
    }
    let mut text = table(&relay_rows(&shown.relays, wide));
    if !shown.nodes.is_empty() {
        text.push('\n');
        text.push_str(&table(&node_rows(&shown.nodes, wide)));
    }
    let findings = shown.relays.iter().flat_map(check::reported);
    for finding in findings {
        write!(
            text,
            "\n{}: {}\n  what: {}\n  fix:  {}\n",
            finding.subject, finding.fault, finding.problem, finding.remedy
        )
        .expect("a string takes all");
    }
    text
}

fn relay_rows(relays: &[PeerRelay], wide: bool) -> Vec<Vec<String>> {
    let header = [
        "NAMESPACE",
        "PEERRELAY",
        "READY",
        "RELAYS",
        "PORT",
        "REGIONS",
        "SESSIONS",
        "REASON",
    ];
    let mut rows = vec![row(&header, &["EXPOSURE", "ENDPOINTS", "TAILNET"], wide)];
    for relay in relays {
        let unknown = PeerRelayStatus::default();
        let status = relay.status.as_ref().unwrap_or(&unknown);
        let (ready, reason) = condition(relay, "Ready");
        let cells = [
            &relay.namespace().unwrap_or_default(),
            &relay.name_any(),
            ready,
            &status.relays,
            &relay.spec.port.to_string(),
            &status.region_names,
            &status.sessions.to_string(),
            reason,
        ];
        let more = [&*status.exposure, &status.endpoints, &status.tailnet];
        rows.push(row(&cells, &more, wide));
    }
    rows
}

fn node_rows(nodes: &[RelayNode], wide: bool) -> Vec<Vec<String>> {
    let header = [
        "NAMESPACE",
        "PEERRELAY",
        "REGION",
        "NODE",
        "READY",
        "SESSIONS",
        "PATH",
        "VERIFIED",
        "REASON",
    ];
    let mut rows = vec![row(&header, &["DEVICE", "ENDPOINTS", "VERSION"], wide)];
    for node in nodes {
        let unknown = RelayNodeStatus::default();
        let status = node.status.as_ref().unwrap_or(&unknown);
        let ready = if status.ready { "True" } else { "False" };
        let device = status.tailnet.as_ref().map_or("", |tailnet| &tailnet.name);
        let endpoints: Vec<_> = status.endpoints.iter().map(|e| &*e.address).collect();
        let cells = [
            &node.namespace().unwrap_or_default(),
            &node.spec.peer_relay,
            &node.spec.region,
            &node.spec.node_name,
            ready,
            &status.sessions.open.to_string(),
            &status.data_path,
            &verified(status),
            status.reason.as_deref().unwrap_or_default(),
        ];
        let more = [device, &endpoints.join(","), &status.version];
        rows.push(row(&cells, &more, wide));
    }
    rows
}

/// Returns the number of addresses that other relays reach, and of all.
fn verified(status: &RelayNodeStatus) -> String {
    let results = status.verification.iter();
    let reached = results.filter(|result| result.verified == Verified::True);
    format!("{}/{}", reached.count(), status.endpoints.len())
}

fn row(cells: &[&str], more: &[&str], wide: bool) -> Vec<String> {
    let more = more.iter().filter(|_| wide);
    cells.iter().chain(more).map(|text| cell(*text)).collect()
}

/// Returns the status and the reason of a condition.
fn condition<'a>(relay: &'a PeerRelay, kind: &str) -> (&'a str, &'a str) {
    let mut conditions = relay.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.find(|condition| condition.type_ == kind);
    found.map_or(("Unknown", "NotReconciled"), |c| (&c.status, &c.reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn shown() -> Shown {
        let relay = json!({
            "metadata": {"name": "edge", "namespace": "relays"},
            "spec": {"tailnet": {"authKey": {"secretName": "tailnet-auth"}},
                     "regions": [{"name": "office", "clients": ["tag:office"]}]},
            "status": {"relays": "0/1", "regionNames": "office", "conditions": [{
                "type": "Ready", "status": "False", "reason": "AuthKeyMissing",
                "message": "1 relay(s): no auth key",
                "lastTransitionTime": "2026-11-29T00:00:00Z"}]},
        });
        let node = json!({
            "metadata": {"name": "edge-office-x", "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": false, "reason": "AuthKeyMissing", "version": "0.1.0",
                       "dataPath": "Socket",
                       "endpoints": [{"address": "192.0.2.1:40000", "source": "Stun"}]},
        });
        Shown {
            relays: vec![serde_json::from_value(relay).unwrap()],
            nodes: vec![serde_json::from_value(node).unwrap()],
        }
    }

    #[test]
    fn tables_name_what_is_wrong_and_the_remedy() {
        let text = tables(&shown(), false);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].contains("edge        False   0/1"), "{text}");
        assert!(
            lines[4].contains("n1     False   0          Socket   0/1"),
            "{text}"
        );
        assert!(
            text.contains("fix:  kubectl create secret generic tailnet-auth -n relays"),
            "{text}"
        );
        assert!(tables(&shown(), true).contains("192.0.2.1:40000"));
    }

    #[test]
    fn objects_are_printed_with_their_kinds() {
        let list = list(&shown()).unwrap();
        assert_eq!(list["items"][0]["kind"], "PeerRelay");
        assert_eq!(list["items"][1]["apiVersion"], "peerrelay.dev/v1alpha1");
        assert_eq!(
            names(&shown()),
            "peerrelay.peerrelay.dev/edge\nrelaynode.peerrelay.dev/edge-office-x\n"
        );
    }
}
