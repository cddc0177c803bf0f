//! A run of the scenarios, on a rig that it brings up and takes down.

use std::time::Instant;

use anyhow::{Result, ensure};
use rig::{
    Rig,
    build::Profile,
    deployment::Deployment,
    progress::Progress,
    seed, signals,
    tools::{BackgroundBuild, Tools},
};

use crate::{
    audit, evidence,
    scenarios::{self, Scenario},
    traces::{self, collector::Collector},
};

/// The choice of scenarios and of the rig's versions.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Only scenarios whose sentence contains this, or one of several parts that '|' separates; no
    /// cargo tests then
    filter: Option<String>,
    /// Use the API server of the oldest Kubernetes that is supported
    #[arg(long)]
    oldest: bool,
    /// Run the scenarios with the release build, as images have it
    #[arg(long)]
    release: bool,
    /// Seed of what is drawn at random; new in each run unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Leave cluster and tailnet up afterwards
    #[arg(long)]
    keep: bool,
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

    const fn profile(&self) -> Profile {
        if self.release {
            Profile::Release
        } else {
            Profile::Dev
        }
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

/// Numbers of scenarios and closing checks.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Those that held.
    pub passed: usize,
    /// Those that did not hold.
    pub failed: usize,
}

/// Runs the chosen scenarios and the closing checks.
pub fn run(args: &TestArgs, seed: u64) -> Result<Totals> {
    let progress = Progress::stderr();
    let scenarios: Vec<_> = scenarios::all()
        .into_iter()
        .filter(|scenario| {
            args.filter
                .as_ref()
                .is_none_or(|filter| is_asked(filter, scenario.name))
        })
        .collect();
    ensure!(
        !scenarios.is_empty() || !closing_checks(args).is_empty(),
        "no scenario's sentence contains that; see `--help`"
    );
    let rig = if args.oldest {
        ensure!(
            Rig::parts()?.is_empty(),
            "a rig is up: run `cargo dev down` first"
        );
        let tools = Tools::build(&progress)?.with_oldest_api_server(&progress)?;
        Rig::up_with(tools, args.profile(), &progress)?
    } else {
        Rig::up(args.profile(), &progress)?
    };
    let background = args
        .is_whole()
        .then(|| BackgroundBuild::start(&TOOLS_OF_FEW));
    let result = Collector::start(&rig).and_then(|collector| {
        let mut failures = run_scenarios(&rig, seed, &scenarios, &progress)?;
        drop(background);
        failures.extend(closing(&rig, args, &progress)?);
        collector.finish()?;
        Ok(failures)
    });
    if !args.keep {
        signals::acknowledge();
        rig.down(&progress)?;
    }
    let failures = result?;
    // Once more at the end, because logs are often cut at their beginning.
    for failure in &failures {
        progress.line(failure);
    }
    let failed = failures.len();
    let passed = scenarios.len() + closing_checks(args).len() - failed;
    Ok(Totals { passed, failed })
}

/// Says whether a sentence contains a part of the filter.
fn is_asked(filter: &str, sentence: &str) -> bool {
    filter.split('|').any(|part| sentence.contains(part))
}

type Check = fn(&Deployment<'_>) -> Result<String>;

/// Checks of a whole run.
fn closing_checks(args: &TestArgs) -> Vec<(&'static str, Check)> {
    let secrets: (&str, Check) = (
        "no log, object or argument list has a secret that was used",
        traces::check,
    );
    let rights: (&str, Check) = (
        "no request of ours was refused, in the whole run",
        audit::check,
    );
    let needed: (&str, Check) = (
        "every right of ours was used, in the whole run",
        audit::check_needed,
    );
    match &args.filter {
        None => vec![secrets, rights, needed],
        // Some scenarios alone do not use every right.
        Some(filter) => [secrets, rights]
            .into_iter()
            .filter(|(name, _)| is_asked(filter, name))
            .collect(),
    }
}

/// Runs the closing checks, and returns a line for each that fails.
fn closing(rig: &Rig, args: &TestArgs, progress: &Progress) -> Result<Vec<String>> {
    let checks = closing_checks(args);
    if checks.is_empty() {
        return Ok(Vec::new());
    }
    let deployment = Deployment::of(rig);
    // With running relays there are keys to search for, and relays' roles to check.
    scenarios::reset(&deployment)?;
    let mut failures = Vec::new();
    for (name, check) in checks {
        match check(&deployment) {
            Ok(summary) => progress.line(format_args!("ok {name}: {summary}")),
            Err(error) => {
                let failure = format!("FAILED {name}: {error:#}");
                progress.line(&failure);
                failures.push(failure);
            }
        }
    }
    Ok(failures)
}

/// Runs the scenarios, and returns a line for each that fails.
fn run_scenarios(
    rig: &Rig,
    seed: u64,
    scenarios: &[Scenario],
    progress: &Progress,
) -> Result<Vec<String>> {
    progress.line("installing the chart");
    let deployment = Deployment::install(rig)?.with_seed(seed);
    deployment.write_secret(&rig.tailnet.auth_key()?)?;
    let mut failures = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let start = Instant::now();
        let result = (scenario.run)(&deployment);
        signals::check()?;
        let seconds = start.elapsed().as_secs();
        let (number, of) = (index + 1, scenarios.len());
        match result {
            Ok(summary) => progress.line(format_args!(
                "ok {number}/{of} {} ({seconds} s): {summary}",
                scenario.name
            )),
            Err(error) => {
                let failure = format!(
                    "FAILED {number}/{of} {} ({seconds} s): {error:#}",
                    scenario.name
                );
                progress.line(format_args!("{failure}\n{}", evidence::of(&deployment)));
                failures.push(failure);
            }
        }
    }
    Ok(failures)
}
