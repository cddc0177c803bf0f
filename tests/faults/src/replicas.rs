//! Two replicas of the operator: only the leader writes, also after the former leader hung.

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
    proxy::{Fault, PlannedFault},
    record::Exchange,
    trial::Harness,
};

/// Longest time to each event. A lease expires after 15 s, and the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows that a replaced leader writes nothing, and that a replica that stops gives the lease back.
pub async fn show(harness: &mut Harness, program: &Path) -> Result<String> {
    let mut second =
        Operator::new(&harness.control_plane, &harness.recorder, program, "second").await?;
    let name = harness.next_name();
    harness.step(&name, &Step::Apply(json!({}))).await?;
    harness.settle(&name).await?;
    second.start()?;
    let mark = harness.recorder.len();
    wait(harness, mark, "the second asks for the lease", |e| {
        e.actor == "second" && e.request.is_lease()
    })
    .await?;

    replace_leader(harness, &name).await?;
    let took = hand_over(harness, &name, &second).await?;
    harness.step(&name, &Step::Delete).await?;
    Ok(format!(
        "no write by the replaced leader; handed over in {:.1} s",
        took.as_secs_f64()
    ))
}

/// Stops the leader in the middle of a change, as a node that hangs does, until the second operator
/// leads. When the first continues, it has a write to send and takes itself for the leader.
async fn replace_leader(harness: &mut Harness, name: &str) -> Result<()> {
    let mut held = harness.recorder.arm(PlannedFault {
        about: name.to_owned(),
        nth: 0,
        fault: Fault::HoldAfter,
        times: 1,
    });
    harness
        .step(name, &Step::Apply(json!({"port": 41_000})))
        .await?;
    held.changed().await?;
    let pid = harness.operator.pid();
    let pid = pid.context("the first does not run")?.to_string();
    run(find("kill").args(["-STOP", &pid]))?;
    let mark = harness.recorder.len();
    harness
        .step(name, &Step::Apply(json!({"port": 41_001})))
        .await?;
    wait(harness, mark, "the second acts", |e| {
        e.actor == "second" && e.request.resource == "daemonsets" && e.request.writes()
    })
    .await?;
    let mark = harness.recorder.len();
    harness.recorder.release();
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
    harness.settle(name).await?;
    let exchanges = harness.recorder.since(mark).into_iter();
    let late: Vec<_> = exchanges
        .filter(|e| e.actor == "first" && e.request.writes() && !e.request.is_lease())
        .map(|e| e.request.to_string())
        .collect();
    ensure!(
        late.is_empty(),
        "the first still writes: {}",
        late.join(", ")
    );
    Ok(())
}

/// Starts the first operator again and stops the second, which leads; the time until the first acts.
async fn hand_over(harness: &mut Harness, name: &str, second: &Operator) -> Result<Duration> {
    harness.operator.start()?;
    let mark = harness.recorder.len();
    wait(harness, mark, "the first asks for the lease", |e| {
        e.actor == "first" && e.request.is_lease()
    })
    .await?;
    let stopped = Instant::now();
    let pid = second.pid().context("the second does not run")?;
    signals::terminate(i32::try_from(pid)?);
    harness.step(name, &Step::Apply(json!({}))).await?;
    wait(harness, mark, "the first acts", |e| {
        e.actor == "first" && e.request.resource == "daemonsets" && e.request.writes()
    })
    .await?;
    Ok(stopped.elapsed())
}

/// Waits for an exchange since `mark` that is as wanted.
async fn wait(
    harness: &Harness,
    mark: usize,
    what: &str,
    wanted: impl Fn(&Exchange) -> bool,
) -> Result<()> {
    let start = Instant::now();
    loop {
        signals::check()?;
        if harness.recorder.since(mark).iter().any(&wanted) {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("never came true: {what}");
        }
        sleep(Duration::from_millis(50)).await;
    }
}
