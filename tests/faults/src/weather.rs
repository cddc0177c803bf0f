//! The API server is restarted, and watches are cut or carry nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use super::story::{Step, two_regions};
use super::trial::Stage;

/// Shows that the operator ends in the same state, and says what it went through.
pub async fn show(stage: &mut Stage) -> Result<String> {
    let two = two_regions();
    let calm = stage.next_name();
    stage.step(&calm, &Step::Apply(two.clone())).await?;
    stage.settle(&calm).await?;
    let wanted = stage.shape(&calm).await?;
    stage.step(&calm, &Step::Delete).await?;

    // The operator knows nothing new while it is changed twice, and then everything at once.
    let name = stage.next_name();
    stage
        .step(&name, &Step::Apply(json!({"port": 41_000})))
        .await?;
    stage.settle(&name).await?;
    let first = stage.shape(&name).await?;
    stage.record.stall_watches(true);
    stage.step(&name, &Step::Delete).await?;
    sleep(Duration::from_secs(1)).await;
    stage
        .step(&name, &Step::Apply(json!({"port": 41_001})))
        .await?;
    sleep(Duration::from_secs(1)).await;
    stage.step(&name, &Step::Apply(two.clone())).await?;
    stage.record.stall_watches(false);
    reached(stage, &name, &wanted, "stalled watches").await?;
    let now = stage.shape(&name).await?;
    ensure!(
        now.kept(&first).is_empty(),
        "the deleted one's objects were kept"
    );

    // A region is removed and comes back while every watch ends again and again.
    for _ in 0..5 {
        stage.step(&name, &Step::Apply(json!({}))).await?;
        stage.record.cut_watches();
        sleep(Duration::from_millis(300)).await;
        stage.step(&name, &Step::Apply(two.clone())).await?;
        stage.record.cut_watches();
        sleep(Duration::from_millis(300)).await;
    }
    reached(stage, &name, &wanted, "cut watches").await?;

    // A node goes while nobody watches, and the API server that is asked next was not there: it lists
    // the nodes, and names none that went.
    stage.step(&name, &Step::NodeUp("late")).await?;
    stage.settle(&name).await?;
    stage.record.stall_watches(true);
    stage.step(&name, &Step::NodeDown("late")).await?;
    stage.plane.restart_api_server().await?;
    stage.record.cut_watches();
    stage.record.stall_watches(false);
    reached(stage, &name, &wanted, "a node that went unseen").await?;

    for spec in [json!({}), two] {
        stage.step(&name, &Step::Apply(spec)).await?;
        stage.plane.restart_api_server().await?;
    }
    reached(stage, &name, &wanted, "a restarted API server").await?;
    let panicked = stage.operator.panicked();
    ensure!(
        panicked.is_none(),
        "the operator {}",
        panicked.unwrap_or_default()
    );
    stage.step(&name, &Step::Delete).await?;
    Ok("stalled, cut, and the API server restarted twice".into())
}

async fn reached(
    stage: &mut Stage,
    name: &str,
    wanted: &super::shape::Shape,
    after: &str,
) -> Result<()> {
    let what = || format!("after {after}");
    // How often objects have changed differs; what they say does not.
    let plain = |shape: &super::shape::Shape| shape.without_generations();
    stage
        .reach_by(name, |now| plain(now).differences(&plain(wanted)))
        .await
        .with_context(what)
}
