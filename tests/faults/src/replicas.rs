//! Two replicas of the operator: one acts, also when the other only seemed to be gone.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rig::{
    command::{program as find, run},
    signals,
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    case::Step,
    operator::Operator,
    proxy::{Fault, Plan},
    record::Exchange,
    trial::Harness,
};

/// A lease runs out after 15 s; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows it, and says what it saw.
pub async fn show(harness: &mut Harness, program: &Path) -> Result<String> {
    let mut second = Operator::new(&harness.plane, &harness.record, program, "second").await?;
    let name = harness.next_name();
    harness.step(&name, &Step::Apply(json!({}))).await?;
    harness.settle(&name).await?;
    second.start()?;
    let mark = harness.record.len();
    wait(harness, mark, "the second asks for the lease", |e| {
        e.actor == "second" && e.request.is_lease()
    })
    .await?;

    // As on a node that hangs in the middle of a change: it believes to lead, and goes on with what
    // it was about to write when it wakes up.
    let mut held = harness.record.arm(Plan {
        about: name.clone(),
        nth: 0,
        fault: Fault::HoldAfter,
        times: 1,
    });
    harness
        .step(&name, &Step::Apply(json!({"port": 41_000})))
        .await?;
    held.changed().await?;
    let pid = harness
        .operator
        .pid()
        .context("the first does not run")?
        .to_string();
    run(find("kill").args(["-STOP", &pid]))?;
    let mark = harness.record.len();
    harness
        .step(&name, &Step::Apply(json!({"port": 41_001})))
        .await?;
    wait(harness, mark, "the second acts", |e| {
        e.actor == "second" && e.request.resource == "daemonsets" && e.request.writes()
    })
    .await?;
    let mark = harness.record.len();
    harness.record.release();
    run(find("kill").args(["-CONT", &pid]))?;
    let start = Instant::now();
    while harness.operator.alive() {
        signals::check()?;
        ensure!(
            start.elapsed() < PATIENCE,
            "the first does not notice that it was replaced"
        );
        sleep(Duration::from_millis(100)).await;
    }
    harness.settle(&name).await?;
    let late: Vec<_> = harness
        .record
        .since(mark)
        .into_iter()
        .filter(|e| e.actor == "first" && e.request.writes() && !e.request.is_lease())
        .map(|e| e.request.to_string())
        .collect();
    ensure!(
        late.is_empty(),
        "the first still writes: {}",
        late.join(", ")
    );

    // A replica that is told to stop gives the lease back.
    harness.operator.start()?;
    let mark = harness.record.len();
    wait(harness, mark, "the first asks for the lease", |e| {
        e.actor == "first" && e.request.is_lease()
    })
    .await?;
    let told = Instant::now();
    let pid = second.pid().context("the second does not run")?;
    signals::terminate(i32::try_from(pid)?);
    harness.step(&name, &Step::Apply(json!({}))).await?;
    wait(harness, mark, "the first acts", |e| {
        e.actor == "first" && e.request.resource == "daemonsets" && e.request.writes()
    })
    .await?;
    let took = told.elapsed();
    harness.step(&name, &Step::Delete).await?;
    Ok(format!(
        "no write by the replaced one; handed over in {:.1} s",
        took.as_secs_f64()
    ))
}

async fn wait(
    harness: &Harness,
    mark: usize,
    what: &str,
    wanted: impl Fn(&Exchange) -> bool,
) -> Result<()> {
    let start = Instant::now();
    loop {
        signals::check()?;
        if harness.record.since(mark).iter().any(&wanted) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("never came true: {what}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
