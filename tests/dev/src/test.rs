//! `cargo dev test`: everything that is tested, from the protocol to the whole.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use conformance::{compare, maps};
use e2e::suite::{self, TestArgs, Totals};
use release::{deny, workflows};
use rig::{
    command::{program, run as run_program},
    packages,
    progress::Progress,
    state::{State, repository},
    tools::{Tools, source},
};

use crate::skipped;

/// Runs cargo's tests and what else needs no cluster, then the scenarios.
pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let seed = args.seed();
    let progress = Progress::stderr();
    progress.line(format_args!("seed {seed}; --seed {seed} draws the same"));
    let mut of_cargo = String::new();
    if args.is_whole() {
        let skipped = cargo_tests(seed, &progress)?;
        of_cargo = format!("; {skipped} skipped (cargo test)");
    }
    let Totals { passed, failed } = suite::run(args, seed)?;
    println!("test result: {passed} passed, {failed} failed (scenarios){of_cargo}");
    Ok(match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Runs what needs no cluster: cargo's tests, with the programs that they ask for, and comparisons with
/// others' code. Returns how many tests did not run.
fn cargo_tests(seed: u64, progress: &Progress) -> Result<usize> {
    packages::ensure(progress)?;
    let tools = Tools::build(progress)?;
    Tools::build_only("mapmodel", progress)?;
    Tools::build_only("argocd", progress)?;
    Tools::build_only("helm3", progress)?;
    Tools::build_only("kube-score", progress)?;
    progress.line("cargo test, the whole workspace");
    let record = State::open()?.path("skipped-tests");
    // A record of an earlier run; mostly there is none.
    std::fs::remove_file(&record).ok();
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
        .env(skips::FILE, &record)
        .status()
        .context("failed to start cargo")?;
    ensure!(status.success(), "cargo test failed");
    let skipped = skipped::check(&record, progress)?;
    golden_vectors(progress)?;
    control_server(progress)?;
    dashboard(progress)?;
    workflows::check(progress)?;
    deny::check(progress)?;
    compare::run_short(seed, progress).context("Go's relay and ours differ")?;
    Ok(skipped)
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
        go.current_dir(repository().join("tests/rig/tools/tailnet"))
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

/// The rig's control server and its API follow their rules, and Tailscale's own client of the API gets along
/// with it.
fn control_server(progress: &Progress) -> Result<()> {
    let mut go = program("go");
    go.current_dir(source("tailnet"))
        .env("GOFLAGS", "-mod=readonly")
        .args(["test", "./control"]);
    run_program(&mut go).context("the control server of the rig breaks its rules")?;
    progress
        .line("the control server follows its rules, and Tailscale's API client accepts its API");
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
