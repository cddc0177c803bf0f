//! `cargo dev maps`: generated streams of network maps go to Tailscale's code and to ours, and who
//! may relay is the same after every message. The test is src/relay/tailnet/netmap/model.rs, which
//! `cargo dev test` runs with fewer streams.

use anyhow::{Context, Result, ensure};
use rig::{command::program, progress::Progress, seed, state::repository, tools::Tools};

/// Variable that names the program with Tailscale's code.
pub const PROGRAM: &str = "PEERRELAY_MAPMODEL";
const TEST: &str = "relay::tailnet::netmap::model";

/// The number of streams and their seed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct MapsArgs {
    /// Seed of the generated streams; new in each run unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Number of streams
    #[arg(long, default_value_t = 2_000)]
    streams: u64,
}

/// Compares; the test says what was seen.
///
/// # Errors
/// A difference; the test has shown the seed and the messages that it needs.
pub fn run(args: &MapsArgs, progress: &Progress) -> Result<()> {
    let tools = Tools::build_only("mapmodel", progress)?;
    let seed = args.seed.unwrap_or_else(seed::fresh);
    progress.line(format_args!("{} streams of seed {seed}", args.streams));
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo
        .current_dir(repository())
        .args(["test", "--quiet", "--locked", "--package", "peerrelay"])
        .args(["--lib", TEST, "--", "--nocapture"])
        .env(PROGRAM, tools.program("mapmodel"))
        .env("PEERRELAY_MAP_SEED", seed.to_string())
        .env("PEERRELAY_MAP_STREAMS", args.streams.to_string())
        .status()
        .context("failed to start cargo")?;
    ensure!(
        status.success(),
        "ours and Tailscale's differ (seed {seed})"
    );
    Ok(())
}
