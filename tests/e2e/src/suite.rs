//! A run of the scenarios, on rigs that it brings up and takes down.

mod outcome;
mod runner;
pub mod share;
mod side_by_side;
pub mod tested;

use std::{num::NonZeroUsize, thread};

use anyhow::{Result, ensure};
use rig::{build::Profile, progress::Progress, seed, tools::BackgroundBuild};

use self::outcome::Outcome;
use crate::scenarios::{self, Scenario};

/// The choice of scenarios and of the rig's versions.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Only scenarios whose sentence contains this, or one of several parts that '|' separates; no
    /// cargo tests then
    filter: Option<String>,
    #[command(flatten)]
    versions: Versions,
    /// Seed of what is drawn at random; new in each run unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Leave cluster and tailnet up afterwards
    #[arg(long)]
    keep: bool,
    /// Number of rigs that share the scenarios; two for a whole run on a machine with two cores or more
    #[arg(long, value_name = "N", conflicts_with = "keep")]
    rigs: Option<NonZeroUsize>,
}

/// The versions of what a rig runs.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Versions {
    /// Use the oldest Kubernetes that is supported: control plane and nodes
    #[arg(long)]
    oldest: bool,
    /// Run the scenarios with the release build, as images have it
    #[arg(long)]
    release: bool,
}

impl Versions {
    const fn profile(self) -> Profile {
        if self.release {
            Profile::Release
        } else {
            Profile::Dev
        }
    }
}

impl TestArgs {
    /// Says whether everything is to be run, not only some scenarios.
    pub fn is_whole(&self) -> bool {
        self.filter.is_none()
    }

    /// The seed that was given, or a new one.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(seed::fresh)
    }

    /// Scenarios mostly wait, so that a second rig halves the time of a whole run.
    fn rigs(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let usual = if self.is_whole() && !self.keep {
            cores.min(2)
        } else {
            1
        };
        self.rigs.map_or(usual, NonZeroUsize::get)
    }
}

/// Tools that only some scenarios need, in the order in which scenarios need them. On a machine
/// that has none, they are built while the first scenarios run, which mostly wait.
const TOOLS_OF_FEW: [&str; 7] = [
    "metallb",
    "network-policies",
    "prometheus-operator",
    "prometheus",
    "headscale",
    "flux",
    "kstatus",
];

/// Totals of scenarios and closing checks.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Number of those that held.
    pub passed: usize,
    /// Number of those that did not hold.
    pub failed: usize,
}

/// Runs the chosen scenarios and the closing checks.
pub fn run(args: &TestArgs, seed: u64) -> Result<Totals> {
    let progress = Progress::stderr();
    let is_asked = |name: &str| {
        let filter = args.filter.as_deref();
        filter.is_none_or(|filter| filter.split('|').any(|part| name.contains(part)))
    };
    let mut scenarios = scenarios::all();
    scenarios.retain(|scenario| is_asked(scenario.name));
    let checks: Vec<_> = runner::CHECKS
        .into_iter()
        .filter(|check| is_asked(check.name) && (args.is_whole() || !check.needs_all))
        .collect();
    ensure!(
        !scenarios.is_empty() || !checks.is_empty(),
        "no scenario's sentence contains that; see `--help`"
    );
    let background = args
        .is_whole()
        .then(|| BackgroundBuild::start(&TOOLS_OF_FEW));
    let outcomes = match args.rigs() {
        1 => runner::run(args, seed, &scenarios, &checks, &progress),
        rigs => side_by_side::run(rigs, args.versions, seed, &scenarios, &checks, &progress),
    };
    drop(background);
    let outcomes = outcomes?;
    tested::record(&outcomes, args.versions)?;
    // Once more at the end, because logs are often cut at their beginning.
    for outcome in outcomes.iter().filter(|outcome| !outcome.passed) {
        progress.line(outcome);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    let failed = outcomes.len() - passed;
    Ok(Totals { passed, failed })
}

/// Prints an outcome, and the state of the cluster after a failure.
fn report(outcome: &Outcome, done: usize, scenarios: &[Scenario], progress: &Progress) {
    let of = scenarios.len();
    progress.line(format_args!("{done}/{of} {outcome}"));
    if !outcome.evidence.is_empty() {
        progress.line(&outcome.evidence);
    }
}
