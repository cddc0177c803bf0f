//! `cargo dev test`: everything that is tested, from the protocol to the whole.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::Profile;
use crate::command::{program, run as run_program};
use crate::compare::{self, CompareArgs};
use crate::progress::Progress;
use crate::scenarios::{self, Scenario};
use crate::state::repository;
use crate::tools::Tools;
use crate::world::World;
use crate::{Rig, audit, deny, evidence, maps, packages, signals, traces, workflows};

/// What to run.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Only scenarios whose sentence contains this, or one of several parts that '|' separates; no
    /// cargo tests then
    filter: Option<String>,
    /// Use the API server of the oldest Kubernetes that is supported
    #[arg(long)]
    oldest: bool,
    /// Leave cluster and tailnet up afterwards
    #[arg(long)]
    keep: bool,
}

/// Runs it; the last line counts.
pub fn run(args: &TestArgs) -> Result<ExitCode> {
    let progress = Progress::stderr();
    if args.filter.is_none() {
        cargo_tests(&progress)?;
    }
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
        Rig::up_with(tools, Profile::Dev, &progress)?
    } else {
        Rig::up(Profile::Dev, &progress)?
    };
    let result = run_scenarios(&rig, &scenarios, &progress);
    let result = result.and_then(|failed| Ok(failed + closing(&rig, args, &progress)?));
    if !args.keep {
        signals::acknowledge();
        rig.down(&progress)?;
    }
    let failed = result?;
    let passed = scenarios.len() + closing_checks(args).len() - failed;
    println!("test result: {passed} passed, {failed} failed, 0 skipped (scenarios)");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Whether a sentence contains a part of the filter.
fn is_asked(filter: &str, sentence: &str) -> bool {
    filter.split('|').any(|part| sentence.contains(part))
}

type Check = fn(&World<'_>) -> Result<String>;

/// What can only be said of a whole run.
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

/// Looks back at the run.
fn closing(rig: &Rig, args: &TestArgs, progress: &Progress) -> Result<usize> {
    let checks = closing_checks(args);
    if checks.is_empty() {
        return Ok(0);
    }
    let world = World::of(rig);
    // With relays that run, there are keys to look for and relays' roles to look at.
    scenarios::reset(&world)?;
    let mut failed = 0;
    for (name, check) in checks {
        match check(&world) {
            Ok(seen) => progress.line(format_args!("ok {name}: {seen}")),
            Err(error) => {
                failed += 1;
                progress.line(format_args!("FAILED {name}: {error:#}"));
            }
        }
    }
    Ok(failed)
}

/// Everything that needs cargo alone, and helm for what renders the chart.
fn cargo_tests(progress: &Progress) -> Result<()> {
    packages::ensure(progress)?;
    let tools = Tools::build(progress)?;
    Tools::build_only("mapmodel", progress)?;
    Tools::build_only("argocd", progress)?;
    Tools::build_only("helm3", progress)?;
    Tools::build_only("kube-score", progress)?;
    progress.line("cargo test, the whole workspace");
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo
        .current_dir(repository())
        .args(["test", "--quiet", "--locked", "--workspace"])
        .env("PEERRELAY_HELM", tools.program("helm"))
        .env("PEERRELAY_KUBECTL", tools.program("kubectl"))
        .env("PEERRELAY_ARGOCD", tools.program("argocd"))
        .env("PEERRELAY_HELM3", tools.program("helm3"))
        .env("PEERRELAY_KUBE_SCORE", tools.program("kube-score"))
        .env(maps::PROGRAM, tools.program("mapmodel"))
        .status()
        .context("failed to start cargo")?;
    ensure!(status.success(), "cargo test failed");
    golden_vectors(progress)?;
    dashboard(progress)?;
    workflows::check(progress)?;
    deny::check(progress)?;
    compare::run(&CompareArgs::default(), progress).context("Go's relay and ours differ")
}

/// The byte vectors that the protocol is held to, and the message that names are held to, are what
/// Tailscale's packages say today.
fn golden_vectors(progress: &Progress) -> Result<()> {
    let files: [(&str, &[&str]); 2] = [
        ("crates/relay-proto/tests/golden/vectors.json", &[]),
        ("src/relay/tailnet/wire/map.json", &["map"]),
    ];
    for (file, what) in files {
        let mut go = program("go");
        go.current_dir(repository().join("tests/cluster/tools/tailnet"))
            .env("GOFLAGS", "-mod=readonly")
            .args(["run", "./vectors"])
            .args(what);
        let fresh = run_program(&mut go).with_context(|| format!("failed to make {file}"))?;
        let stored = std::fs::read_to_string(repository().join(file))?;
        let words = what.join(" ");
        ensure!(
            fresh == stored,
            "{file} is stale: write what `go run ./vectors {words}` prints into it"
        );
    }
    progress.line("golden vectors are what Tailscale's own packages make");
    Ok(())
}

/// Grafana's own types know every field of the dashboard, and miss none.
fn dashboard(progress: &Progress) -> Result<()> {
    let tools = Tools::build_only("dashboard", progress)?;
    let mut reader = program(tools.program("dashboard"));
    let file = repository().join("deploy/monitoring/dashboard.json");
    let seen = run_program(reader.arg(file)).context("Grafana's types refuse the dashboard")?;
    progress.line(format_args!(
        "Grafana's types know the dashboard: {}",
        seen.trim()
    ));
    Ok(())
}

fn run_scenarios(rig: &Rig, scenarios: &[Scenario], progress: &Progress) -> Result<usize> {
    progress.line("installing the chart");
    let world = World::install(rig)?;
    world.write_secret(&rig.tailnet.auth_key())?;
    let mut failed = 0;
    for (index, scenario) in scenarios.iter().enumerate() {
        let start = Instant::now();
        let outcome = (scenario.run)(&world);
        signals::check()?;
        let seconds = start.elapsed().as_secs();
        let (number, of) = (index + 1, scenarios.len());
        match outcome {
            Ok(seen) => progress.line(format_args!(
                "ok {number}/{of} {} ({seconds} s): {seen}",
                scenario.name
            )),
            Err(error) => {
                failed += 1;
                let state = evidence::of(&world);
                progress.line(format_args!(
                    "FAILED {number}/{of} {} ({seconds} s): {error:#}\n{state}",
                    scenario.name
                ));
            }
        }
    }
    Ok(failed)
}
