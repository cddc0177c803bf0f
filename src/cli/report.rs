//! Subcommand `report`: the state of an installation for a bug report, without secrets.

mod redact;

use std::collections::BTreeMap;

use clap::Args;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Event, Pod},
};
use kube::{Api, Client, Resource, ResourceExt, api::LogParams};
use serde::Serialize;
use serde_json::{Value, json};

use self::redact::{redact, redact_text};
use super::{
    cluster::ClusterArgs,
    collect,
    output::{print, print_error},
    reader::Reader,
};
use crate::{
    check::{self, Facts, facts::Known},
    names,
};

/// Number of the newest lines of each log.
const LOG_LINES: i64 = 500;
/// Largest part of each log, in bytes.
const LOG_BYTES: i64 = 1_000_000;
/// Largest number of relays whose logs are read.
const RELAY_LOGS: usize = 20;

#[derive(Args)]
#[command(after_help = "\
Example: save a report about all namespaces
  peerrelay report > report.yaml

The report has the findings of 'peerrelay check', the PeerRelays, RelayNodes and DaemonSets, their \
events, and the newest 500 lines of the logs of the operator and of up to 20 relays. It reads no Secret. Auth keys, tokens, private \
keys, passwords in URLs and values of environment variables are replaced by REDACTED. Names of \
devices, nodes and namespaces and addresses of relays stay: read the file before you share it.

Exit codes: 0 if the report is written, 1 if the API server cannot be reached, 2 for incorrect \
usage, 141 if standard output is closed.")]
pub(super) struct ReportArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl ReportArgs {
    /// Prints the report as one YAML document.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = self.cluster.client().await?;
        let reader = Reader {
            client: &client,
            namespace: self.cluster.given_namespace(),
        };
        print_error("reading objects and logs");
        let facts = collect::collect(&client, reader.namespace).await?;
        let managed = names::managed();
        let (sets, events) = tokio::join!(
            reader.within::<DaemonSet>(&managed),
            reader.within::<Event>(""),
        );
        let (major, minor) = facts.kubernetes;
        let mut report = json!({
            "program": facts.version,
            "kubernetes": format!("{major}.{minor}"),
            "checks": check::run(&facts),
            "peerRelays": objects(&facts.relays),
            "relayNodes": objects(&facts.relay_nodes),
            "relayPods": objects(&facts.relay_pods),
            "daemonSets": objects(&sets),
            "operators": objects(&facts.operators),
            "operatorPods": objects(&facts.operator_pods),
            "events": events.iter().flatten().filter(|event| is_about_relays(event, &facts)).collect::<Vec<_>>(),
        });
        redact(&mut report);
        let operators = facts.operator_pods.iter().flatten();
        let relays = facts.relay_pods.iter().flatten().take(RELAY_LOGS);
        report["logs"] = json!(logs(&client, operators.chain(relays)).await);
        print(&serde_yaml::to_string(&report)?)?;
        Ok(())
    }
}

/// Returns objects of a kind, or the reason why they are unknown.
fn objects<K: Resource<DynamicType = ()> + Serialize>(known: &Known<K>) -> Value {
    match known {
        Ok(objects) => json!(objects),
        Err(unread) => json!(unread.to_string()),
    }
}

/// Returns whether an event is about a PeerRelay or an object whose name begins with that of one.
fn is_about_relays(event: &Event, facts: &Facts) -> bool {
    let mut relays = facts.relays.iter().flatten();
    let about = event.involved_object.name.as_deref().unwrap_or_default();
    relays.any(|relay| {
        relay.namespace() == event.involved_object.namespace && about.starts_with(&relay.name_any())
    })
}

/// Reads the newest lines of the logs of pods.
async fn logs<'a>(
    client: &Client,
    pods: impl Iterator<Item = &'a Pod>,
) -> BTreeMap<String, String> {
    let params = LogParams {
        tail_lines: Some(LOG_LINES),
        limit_bytes: Some(LOG_BYTES),
        ..LogParams::default()
    };
    let mut logs = BTreeMap::new();
    for pod in pods {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api = Api::<Pod>::namespaced(client.clone(), &namespace);
        let log = match api.logs(&name, &params).await {
            Ok(log) => redact_text(&log),
            Err(error) => format!("failed to read the log: {error}"),
        };
        logs.insert(format!("{namespace}/{name}"), log);
    }
    logs
}
