//! The operator asks for nothing that it knows, and writes nothing that is there.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::{deployment::NAMESPACE, spec::peer_relay};
use serde_json::json;
use tokio::time::sleep;

use super::{
    case::Step,
    record::Exchange,
    trial::{Harness, relay_path},
};

/// Long enough for a poll to show.
const IDLE: Duration = Duration::from_secs(10);

/// Shows it, and says what it saw.
pub async fn show(harness: &mut Harness) -> Result<String> {
    let name = harness.next_name();
    harness.step(&name, &Step::Apply(json!({}))).await?;
    harness.settle(&name).await?;

    let mark = harness.record.len();
    sleep(IDLE).await;
    let idle = asked(harness, mark);
    ensure!(
        idle.is_empty(),
        "requests while nothing happens: {}",
        told(&idle)
    );

    // Metadata only: there is nothing to do.
    let mark = harness.record.len();
    let note = json!({"metadata": {"annotations": {"rig/looked": "again"}}});
    harness.plane.api.merge(&relay_path(&name), &note).await?;
    sleep(Duration::from_secs(2)).await;
    let looked = asked(harness, mark);
    ensure!(
        looked.is_empty(),
        "requests for an annotation: {}",
        told(&looked)
    );

    let mark = harness.record.len();
    harness.operator.kill();
    harness.operator.start()?;
    sleep(Duration::from_secs(4)).await;
    let start = asked(harness, mark);
    // This API server streams its lists: a watch each.
    ensure!(
        start.is_empty(),
        "requests of a new operator: {}",
        told(&start)
    );

    let mark = harness.record.len();
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": format!("{name}-office-1"), "namespace": NAMESPACE},
        "spec": {"peerRelay": name, "region": "office", "nodeName": "n1"},
    });
    harness.plane.api.apply(&report).await?;
    sleep(Duration::from_secs(1)).await;
    let created = asked(harness, mark);
    ensure!(
        created.is_empty(),
        "requests for an empty report: {}",
        told(&created)
    );
    let mark = harness.record.len();
    let path =
        format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/relaynodes/{name}-office-1");
    let status = json!({"status": {
        "ready": true, "version": "1", "dataPath": "Socket", "sessions": {"open": 3, "connecting": 0},
    }});
    harness
        .plane
        .api
        .merge(&format!("{path}/status"), &status)
        .await?;
    sleep(Duration::from_secs(2)).await;
    let reported = asked(harness, mark);
    // Each transition of a condition is an event.
    let (events, others): (Vec<_>, Vec<_>) = reported
        .iter()
        .partition(|e| e.request.resource == "events");
    ensure!(
        others.len() == 1 && others[0].request.resource == "peerrelays/status" && events.len() <= 3,
        "a report costs {}",
        told(&reported)
    );

    let mark = harness.record.len();
    harness
        .plane
        .api
        .apply(&peer_relay(&name, &json!({"port": 41_000})))
        .await?;
    harness.settle(&name).await?;
    let changed = asked(harness, mark);
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
    harness.plane.api.delete(&path).await?;
    harness.step(&name, &Step::Delete).await?;
    Ok(format!(
        "0 requests in {} s and after a restart, 1 status for a report, {} writes for a changed port",
        IDLE.as_secs(),
        changed.len()
    ))
}

/// Requests besides watches and the lease.
fn asked(harness: &Harness, mark: usize) -> Vec<Exchange> {
    let mut exchanges = harness.record.since(mark);
    exchanges.retain(|e| e.request.verb != "watch" && !e.request.is_lease());
    exchanges
}

fn told(exchanges: &[Exchange]) -> String {
    let each: Vec<_> = exchanges.iter().map(|e| e.request.to_string()).collect();
    each.join(", ")
}
