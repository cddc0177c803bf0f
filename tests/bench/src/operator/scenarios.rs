//! Requests and times of every change that a user, an administrator or a cloud makes.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use faults::{
    case::{self, Step},
    record::Exchange,
    trial::Harness,
};
use rig::{progress::Progress, tools::Tools};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::statistics::Figure;

/// Long enough for an operator that starts to have seen everything.
const START: Duration = Duration::from_secs(4);
const RESTART: &str = "restart with all in place";

/// The result of a scenario; times are medians.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Scenario {
    /// The name of the scenario.
    pub name: String,
    /// Requests by verb, besides watches and the lease, of the round that took most.
    pub requests: BTreeMap<String, usize>,
    /// From the change to the first answered write of a DaemonSet, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub daemon_set_ms: Option<f64>,
    /// From the change to the last request.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_ms: Option<f64>,
}

impl Scenario {
    /// The number of all requests.
    pub fn total(&self) -> usize {
        self.requests.values().sum()
    }
}

/// A change, as it went once.
struct Round {
    requests: Vec<Exchange>,
    start: Instant,
}

/// Plays everything that contains `filter`.
pub async fn measure(
    tools: &Tools,
    program: &Path,
    filter: &str,
    rounds: u8,
    progress: &Progress,
) -> Result<Vec<Scenario>> {
    let cases: Vec<_> = case::all()
        .into_iter()
        .filter(|case| case.name.contains(filter))
        .collect();
    let mut scenarios = Vec::new();
    if cases.is_empty() && !RESTART.contains(filter) {
        return Ok(scenarios);
    }
    let mut harness = Harness::open(tools, program).await?;
    for case in &cases {
        progress.line(&case.name);
        let mut played = Vec::new();
        for _ in 0..rounds {
            let golden = harness
                .golden(case)
                .await
                .with_context(|| case.name.clone())?;
            played.push(Round {
                requests: golden.requests,
                start: golden.start,
            });
        }
        scenarios.push(summary(&case.name, &played));
    }
    if RESTART.contains(filter) {
        progress.line(RESTART);
        let mut played = Vec::new();
        for _ in 0..rounds {
            played.push(restart(&mut harness).await?);
        }
        scenarios.push(summary(RESTART, &played));
    }
    Ok(scenarios)
}

async fn restart(harness: &mut Harness) -> Result<Round> {
    let name = harness.next_name();
    harness
        .step(&name, &Step::Apply(serde_json::json!({})))
        .await?;
    harness.settle(&name).await?;
    let mark = harness.recorder.len();
    harness.operator.kill();
    let start = Instant::now();
    harness.operator.start()?;
    sleep(START).await;
    let requests = without_watches(harness.recorder.since(mark));
    harness.step(&name, &Step::Delete).await?;
    harness.settle(&name).await?;
    Ok(Round { requests, start })
}

/// Requests besides watches and the lease.
pub fn without_watches(mut requests: Vec<Exchange>) -> Vec<Exchange> {
    requests.retain(|e| e.request.verb != "watch" && !e.request.is_lease());
    requests
}

/// Requests by verb.
pub fn by_verb(requests: &[Exchange]) -> BTreeMap<String, usize> {
    let mut verbs = BTreeMap::new();
    for exchange in requests {
        *verbs.entry(exchange.request.verb.to_owned()).or_default() += 1;
    }
    verbs
}

fn summary(name: &str, rounds: &[Round]) -> Scenario {
    let most = rounds.iter().max_by_key(|round| round.requests.len());
    let median = |at: &dyn Fn(&Round) -> Option<Instant>| {
        let ms = rounds
            .iter()
            .filter_map(|round| Some(at(round)?.duration_since(round.start).as_secs_f64() * 1e3));
        Figure::of(ms).map(|figure| figure.median)
    };
    let daemon_set = |round: &Round| {
        let mut writes = round
            .requests
            .iter()
            .filter(|e| e.request.resource == "daemonsets" && e.request.writes());
        writes.find_map(|e| e.answered)
    };
    let last = |round: &Round| round.requests.iter().filter_map(|e| e.answered).max();
    Scenario {
        name: name.into(),
        requests: most
            .map(|round| by_verb(&round.requests))
            .unwrap_or_default(),
        daemon_set_ms: median(&daemon_set),
        last_ms: median(&last),
    }
}
