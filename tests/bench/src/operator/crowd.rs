//! The operator with many PeerRelays: the cost of creating them, and of a restart with them.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use faults::{record::Exchange, trial::Harness};
use rig::{names::NAMESPACE, progress::Progress, signals, spec::peer_relay, tools::Tools};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::scenarios::{by_verb, without_watches};
use crate::{server::memory, system::cpu_time};

/// The operator is done when nothing went through for this long.
const QUIET: Duration = Duration::from_secs(3);
/// From its start until it has given back what its first lists took.
const SETTLED: Duration = Duration::from_secs(10);
/// Longest time for each PeerRelay, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(2);

/// A number of PeerRelays that are all in place.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Crowd {
    /// Number of PeerRelays.
    pub peer_relays: usize,
    /// Number of PeerRelays that were new.
    pub added: usize,
    /// Requests by verb, besides watches and the lease, to make the new ones.
    pub requests: BTreeMap<String, usize>,
    /// Seconds from the first apply to the last request.
    pub seconds: f64,
    /// CPU time of the operator meanwhile, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory of the operator that made them, in bytes.
    pub rss_made: u64,
    /// The resident memory of an operator that started when all PeerRelays were there, in bytes.
    pub rss_started: u64,
    /// The part of it that is backed by no file, in bytes.
    pub anonymous_started: u64,
    /// The most that it had while it started.
    pub peak_started: u64,
    /// Requests by verb of one that starts when all are there.
    pub requests_started: BTreeMap<String, usize>,
}

/// Makes them, one number after the other.
pub async fn measure(
    tools: &Tools,
    program: &Path,
    numbers: &[usize],
    progress: &Progress,
) -> Result<Vec<Crowd>> {
    let mut crowds = Vec::new();
    if numbers.is_empty() {
        return Ok(crowds);
    }
    let mut harness = Harness::open(tools, program).await?;
    let mut there = 0;
    for &number in numbers {
        ensure!(number > there, "numbers of PeerRelays must grow");
        progress.line(format_args!("{number} PeerRelays"));
        let crowd = grow(&mut harness, there, number).await;
        crowds.push(crowd.with_context(|| format!("with {number} PeerRelays"))?);
        there = number;
    }
    Ok(crowds)
}

async fn grow(harness: &mut Harness, from: usize, to: usize) -> Result<Crowd> {
    let added = to - from;
    let pid = process(harness)?;
    let cpu = cpu_time(pid)?;
    let mark = harness.recorder.len();
    let start = Instant::now();
    for index in from..to {
        let relay = peer_relay(&format!("crowd-{index:05}"), &json!({}));
        harness.control_plane.api.apply(&relay).await?;
    }
    quiet(harness, to).await?;
    let requests = without_watches(harness.recorder.since(mark));
    let last = requests.iter().filter_map(|e| e.answered).max();
    let last = last.context("the operator without_watches for nothing")?;
    let mut crowd = Crowd {
        peer_relays: to,
        added,
        requests: by_verb(&requests),
        seconds: last.duration_since(start).as_secs_f64(),
        cpu_seconds: (cpu_time(pid)? - cpu).as_secs_f64(),
        rss_made: memory(pid)?.rss,
        ..Crowd::default()
    };
    let mark = harness.recorder.len();
    harness.operator.kill();
    harness.operator.start()?;
    sleep(SETTLED).await;
    quiet(harness, to).await?;
    let memory = memory(process(harness)?)?;
    let (_, peak) = harness.operator.memory().context("the operator ended")?;
    crowd.rss_started = memory.rss;
    crowd.anonymous_started = memory.anonymous;
    crowd.peak_started = peak * 1024;
    crowd.requests_started = by_verb(&without_watches(harness.recorder.since(mark)));
    Ok(crowd)
}

fn process(harness: &Harness) -> Result<i32> {
    let pid = harness.operator.pid().context("the operator ended")?;
    Ok(i32::try_from(pid)?)
}

/// The last requests, and what they were answered.
fn listed(exchanges: &[Exchange]) -> String {
    let last = &exchanges[exchanges.len().saturating_sub(40)..];
    let each: Vec<_> = last
        .iter()
        .map(|e| format!("{} {:?}", e.request, e.status))
        .collect();
    each.join(", ")
}

/// Waits until the operator has answered every PeerRelay and has nothing more to do.
async fn quiet(harness: &Harness, number: usize) -> Result<()> {
    let path = format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/peerrelays");
    let start = Instant::now();
    let patience = Duration::from_secs(60) + PATIENCE * u32::try_from(number)?;
    loop {
        signals::check()?;
        if harness.recorder.quiet() > QUIET {
            let list = harness.control_plane.api.read(&path).await?;
            let seen = |relay: &&Value| {
                relay["status"]["observedGeneration"] == relay["metadata"]["generation"]
            };
            let items = list["items"].as_array().into_iter().flatten();
            if items.filter(seen).count() == number {
                return Ok(());
            }
        }
        ensure!(
            start.elapsed() < patience,
            "it is not done after {}; the operator says\n{}",
            listed(&harness.recorder.exchanges()),
            harness.operator.log_tail()
        );
        sleep(Duration::from_millis(200)).await;
    }
}
