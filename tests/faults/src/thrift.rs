//! The operator asks for nothing that it knows, and writes nothing that is there.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::world::NAMESPACE;
use serde_json::json;
use tokio::time::sleep;

use super::record::Exchange;
use super::story::{Step, peer_relay};
use super::trial::{Stage, relay_path};

/// Long enough for a poll to show.
const IDLE: Duration = Duration::from_secs(10);

/// Shows it, and says what it saw.
pub async fn show(stage: &mut Stage) -> Result<String> {
    let name = stage.next_name();
    stage.step(&name, &Step::Apply(json!({}))).await?;
    stage.settle(&name).await?;

    let mark = stage.record.len();
    sleep(IDLE).await;
    let idle = asked(stage, mark);
    ensure!(
        idle.is_empty(),
        "requests while nothing happens: {}",
        told(&idle)
    );

    // Metadata only: there is nothing to do.
    let mark = stage.record.len();
    let note = json!({"metadata": {"annotations": {"rig/looked": "again"}}});
    stage.plane.api.merge(&relay_path(&name), &note).await?;
    sleep(Duration::from_secs(2)).await;
    let looked = asked(stage, mark);
    ensure!(
        looked.is_empty(),
        "requests for an annotation: {}",
        told(&looked)
    );

    let mark = stage.record.len();
    stage.operator.kill();
    stage.operator.start()?;
    sleep(Duration::from_secs(4)).await;
    let start = asked(stage, mark);
    // This API server streams its lists: a watch each.
    ensure!(
        start.is_empty(),
        "requests of a new operator: {}",
        told(&start)
    );

    let mark = stage.record.len();
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": format!("{name}-office-1"), "namespace": NAMESPACE},
        "spec": {"peerRelay": name, "region": "office", "nodeName": "n1"},
    });
    stage.plane.api.apply(&report).await?;
    sleep(Duration::from_secs(1)).await;
    let created = asked(stage, mark);
    ensure!(
        created.is_empty(),
        "requests for an empty report: {}",
        told(&created)
    );
    let mark = stage.record.len();
    let path =
        format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/relaynodes/{name}-office-1");
    let status = json!({"status": {
        "ready": true, "version": "1", "dataPath": "Socket", "sessions": {"open": 3, "connecting": 0},
    }});
    stage
        .plane
        .api
        .merge(&format!("{path}/status"), &status)
        .await?;
    sleep(Duration::from_secs(2)).await;
    let reported = asked(stage, mark);
    // Each transition of a condition is an event.
    let (events, others): (Vec<_>, Vec<_>) = reported
        .iter()
        .partition(|e| e.request.resource == "events");
    ensure!(
        others.len() == 1 && others[0].request.resource == "peerrelays/status" && events.len() <= 3,
        "a report costs {}",
        told(&reported)
    );

    let mark = stage.record.len();
    stage
        .plane
        .api
        .apply(&peer_relay(&name, &json!({"port": 41_000})))
        .await?;
    stage.settle(&name).await?;
    let changed = asked(stage, mark);
    let of = |resource: &str| {
        changed
            .iter()
            .filter(|e| e.request.resource == resource)
            .count()
    };
    // One for each of the two nodes that are chosen.
    ensure!(
        of("daemonsets") <= 2 && of("configmaps") <= 1 && of("serviceaccounts") == 0,
        "one change of a field costs {}",
        told(&changed)
    );
    let reads = changed.iter().filter(|e| !e.request.writes()).count();
    ensure!(
        reads == 0,
        "{reads} reads for a change of a field: {}",
        told(&changed)
    );
    stage.plane.api.delete(&path).await?;
    stage.step(&name, &Step::Delete).await?;
    Ok(format!(
        "0 requests in {} s and after a restart, 1 status for a report, {} writes for a changed port",
        IDLE.as_secs(),
        changed.len()
    ))
}

/// Requests besides watches and the lease.
fn asked(stage: &Stage, mark: usize) -> Vec<Exchange> {
    let mut exchanges = stage.record.since(mark);
    exchanges.retain(|e| e.request.verb != "watch" && !e.request.is_lease());
    exchanges
}

fn told(exchanges: &[Exchange]) -> String {
    let each: Vec<_> = exchanges.iter().map(|e| e.request.to_string()).collect();
    each.join(", ")
}
