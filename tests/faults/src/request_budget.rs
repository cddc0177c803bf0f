//! The number of the operator's requests: none at rest, and one for each object that changes.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::{names::NAMESPACE, spec::peer_relay};
use serde_json::json;
use tokio::time::sleep;

use super::{case::Step, names::relay_path, record::Exchange, trial::Harness};

/// Time at rest, in which a poll would show.
const IDLE: Duration = Duration::from_secs(10);

/// Shows the requests of an operator at rest, of its restart, of a report and of a changed field.
pub async fn show(harness: &mut Harness) -> Result<String> {
    let name = harness.next_name();
    harness.step(&name, &Step::Apply(json!({}))).await?;
    harness.settle(&name).await?;
    at_rest(harness, &name).await?;
    report(harness, &name).await?;
    let writes = change(harness, &name).await?;
    let path = report_path(&name);
    harness.control_plane.api.delete(&path).await?;
    harness.step(&name, &Step::Delete).await?;
    Ok(format!(
        "0 requests in {} s and after a restart, 1 status for a report, {writes} writes for a changed port",
        IDLE.as_secs(),
    ))
}

/// Fails if the operator sends a request while nothing changes, for an annotation, or when it starts.
async fn at_rest(harness: &mut Harness, name: &str) -> Result<()> {
    let mark = harness.recorder.len();
    sleep(IDLE).await;
    none(harness, mark, "while nothing happens")?;

    let mark = harness.recorder.len();
    let annotation = json!({"metadata": {"annotations": {"rig/annotated": "again"}}});
    let path = relay_path(name);
    harness.control_plane.api.merge(&path, &annotation).await?;
    sleep(Duration::from_secs(2)).await;
    none(harness, mark, "for an annotation")?;

    let mark = harness.recorder.len();
    harness.operator.kill();
    harness.operator.start()?;
    sleep(Duration::from_secs(4)).await;
    // This API server streams its lists: a watch each.
    none(harness, mark, "of a new operator")
}

/// Fails if an empty report costs a request, or a report more than a status and its events.
async fn report(harness: &Harness, name: &str) -> Result<()> {
    let mark = harness.recorder.len();
    let report = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
        "metadata": {"name": format!("{name}-office-1"), "namespace": NAMESPACE},
        "spec": {"peerRelay": name, "region": "office", "nodeName": "n1"},
    });
    harness.control_plane.api.apply(&report).await?;
    sleep(Duration::from_secs(1)).await;
    none(harness, mark, "for an empty report")?;

    let mark = harness.recorder.len();
    let status = json!({"status": {
        "ready": true, "version": "1", "dataPath": "Socket", "sessions": {"open": 3, "connecting": 0},
    }});
    let path = format!("{}/status", report_path(name));
    harness.control_plane.api.merge(&path, &status).await?;
    sleep(Duration::from_secs(2)).await;
    let requests = requests(harness, mark);
    // Each transition of a condition is an event.
    let (events, others): (Vec<_>, Vec<_>) = requests
        .iter()
        .partition(|e| e.request.resource == "events");
    ensure!(
        others.len() == 1 && others[0].request.resource == "peerrelays/status" && events.len() <= 3,
        "a report costs {}",
        listed(&requests)
    );
    Ok(())
}

/// Fails if a changed port costs more writes than objects that have it, or a read; the writes.
async fn change(harness: &mut Harness, name: &str) -> Result<usize> {
    let mark = harness.recorder.len();
    let relay = peer_relay(name, &json!({"port": 41_000}));
    harness.control_plane.api.apply(&relay).await?;
    harness.settle(name).await?;
    let requests = requests(harness, mark);
    let of = |resource: &str| {
        let requests = requests.iter();
        requests.filter(|e| e.request.resource == resource).count()
    };
    // One for each of the two nodes that are chosen.
    ensure!(
        of("daemonsets") <= 2 && of("configmaps") <= 1 && of("serviceaccounts") == 0,
        "one change of a field costs {}",
        listed(&requests)
    );
    let reads = requests.iter().filter(|e| !e.request.writes()).count();
    ensure!(
        reads == 0,
        "{reads} reads for a change of a field: {}",
        listed(&requests)
    );
    Ok(requests.len())
}

fn report_path(name: &str) -> String {
    format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/relaynodes/{name}-office-1")
}

/// Fails if there were requests since `mark`, besides watches and the lease.
fn none(harness: &Harness, mark: usize, occasion: &str) -> Result<()> {
    let requests = requests(harness, mark);
    ensure!(
        requests.is_empty(),
        "requests {occasion}: {}",
        listed(&requests)
    );
    Ok(())
}

/// Requests since `mark`, besides watches and the lease.
fn requests(harness: &Harness, mark: usize) -> Vec<Exchange> {
    let mut exchanges = harness.recorder.since(mark);
    exchanges.retain(|e| e.request.verb != "watch" && !e.request.is_lease());
    exchanges
}

fn listed(exchanges: &[Exchange]) -> String {
    let each: Vec<_> = exchanges.iter().map(|e| e.request.to_string()).collect();
    each.join(", ")
}
