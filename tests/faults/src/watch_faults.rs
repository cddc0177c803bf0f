//! The API server is restarted, and watches are cut or carry nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    case::{Step, two_regions},
    snapshot::Snapshot,
    trial::Harness,
};

/// Shows that the operator ends in the same state, and returns a summary.
pub async fn show(harness: &mut Harness) -> Result<String> {
    let two = two_regions();
    let calm = harness.next_name();
    harness.step(&calm, &Step::Apply(two.clone())).await?;
    harness.settle(&calm).await?;
    let wanted = harness.snapshot(&calm).await?;
    harness.step(&calm, &Step::Delete).await?;

    let name = stalled(harness, &two, &wanted).await?;

    // A region is removed and comes back while every watch ends again and again.
    for _ in 0..5 {
        harness.step(&name, &Step::Apply(json!({}))).await?;
        harness.recorder.cut_watches();
        sleep(Duration::from_millis(300)).await;
        harness.step(&name, &Step::Apply(two.clone())).await?;
        harness.recorder.cut_watches();
        sleep(Duration::from_millis(300)).await;
    }
    reached(harness, &name, &wanted, "cut watches").await?;

    // A node leaves while no watch works. The API server that is asked next was started afterwards, so
    // it sends no event about that node, only a list without it.
    harness.step(&name, &Step::NodeUp("late")).await?;
    harness.settle(&name).await?;
    harness.recorder.stall_watches(true);
    harness.step(&name, &Step::NodeDown("late")).await?;
    harness.control_plane.restart_api_server().await?;
    harness.recorder.cut_watches();
    harness.recorder.stall_watches(false);
    reached(harness, &name, &wanted, "a node that left unwatched").await?;

    for spec in [json!({}), two] {
        harness.step(&name, &Step::Apply(spec)).await?;
        harness.control_plane.restart_api_server().await?;
    }
    reached(harness, &name, &wanted, "a restarted API server").await?;
    let panicked = harness.operator.panicked();
    ensure!(
        panicked.is_none(),
        "the operator {}",
        panicked.unwrap_or_default()
    );
    harness.step(&name, &Step::Delete).await?;
    Ok("stalled, cut, and the API server restarted twice".into())
}

/// Stalls the watches while the PeerRelay is replaced and changed twice; its name.
async fn stalled(harness: &mut Harness, two: &Value, wanted: &Snapshot) -> Result<String> {
    let name = harness.next_name();
    harness
        .step(&name, &Step::Apply(json!({"port": 41_000})))
        .await?;
    harness.settle(&name).await?;
    let first = harness.snapshot(&name).await?;
    harness.recorder.stall_watches(true);
    harness.step(&name, &Step::Delete).await?;
    sleep(Duration::from_secs(1)).await;
    harness
        .step(&name, &Step::Apply(json!({"port": 41_001})))
        .await?;
    sleep(Duration::from_secs(1)).await;
    harness.step(&name, &Step::Apply(two.clone())).await?;
    harness.recorder.stall_watches(false);
    reached(harness, &name, wanted, "stalled watches").await?;
    let now = harness.snapshot(&name).await?;
    ensure!(
        now.kept(&first).is_empty(),
        "objects of the deleted PeerRelay were kept"
    );
    Ok(name)
}

async fn reached(harness: &mut Harness, name: &str, wanted: &Snapshot, after: &str) -> Result<()> {
    let what = || format!("after {after}");
    // How often objects have changed differs; what they say does not.
    let plain = |snapshot: &Snapshot| snapshot.without_generations();
    harness
        .reach_by(name, |now| plain(now).differences(&plain(wanted)))
        .await
        .with_context(what)
}
