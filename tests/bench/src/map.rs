//! `cargo dev bench map`: network maps of large tailnets, as a relay reads them. The streams are
//! synthetic. A test of the crate replays them (src/relay/tailnet/replay.rs), because the network map is
//! private; each size has a process of its own. It needs neither root nor a cluster.

pub mod messages;
pub mod report;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, query},
    progress::Progress,
    state::{State, repository},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::messages::Tailnet;
use super::{conditions, docs, output::Output, row::Conditions};

/// Variable that names the directory with the streams.
const DIRECTORY: &str = "PEERRELAY_MAP_REPLAY";
const TEST: &str = "relay::tailnet::replay::a_map_stream_is_replayed";

/// The sizes of tailnets to measure.
#[derive(Debug, clap::Args)]
pub struct MapArgs {
    /// Devices of the tailnet; may be repeated
    #[arg(long, value_name = "NUMBER", default_values_t = [1_000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    devices: Vec<u32>,
    #[command(flatten)]
    output: Output,
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MapResults {
    /// The conditions of the run.
    pub conditions: Conditions,
    /// One for each size.
    pub rows: Vec<MapRow>,
}

/// The results with one size of tailnet.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct MapRow {
    /// Devices of the tailnet.
    pub devices: u32,
    /// Bytes of the full map as JSON.
    pub map_bytes: u64,
    /// Bytes of the full map as the relay received it.
    pub received_bytes: u64,
    /// Figures of the replay.
    #[serde(flatten)]
    pub replay: Replay,
}

/// Figures of a replay.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Replay {
    /// The relay refused the map.
    pub refused: bool,
    /// Time from the first byte of the full map until it was applied, in milliseconds.
    pub load_ms: f64,
    /// Resident memory before the map, in bytes.
    pub resident_before: Option<u64>,
    /// Resident memory after the map, in bytes.
    pub resident: Option<u64>,
    /// Peak of resident memory until the map was applied, in bytes.
    pub peak: Option<u64>,
    /// Peak of resident memory after the further messages, in bytes.
    pub peak_after: Option<u64>,
    /// A message about who is online.
    pub unrelated: Option<Times>,
    /// A message with a device that has restarted.
    pub device: Option<Times>,
    /// A message with the whole packet filter.
    pub filter: Option<Times>,
    /// Requests for sessions while messages about who is online come.
    pub requests_unrelated: Option<Times>,
    /// Requests for sessions while devices restart.
    pub requests_device: Option<Times>,
}

/// Times of some work, in microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Times {
    /// Number of measured times.
    pub count: usize,
    /// Network map messages meanwhile.
    pub messages: Option<u32>,
    /// The median of the times.
    pub p50_us: Option<f64>,
    /// The 99th percentile.
    pub p99_us: Option<f64>,
    /// The longest of the times.
    pub max_us: Option<f64>,
}

/// Measures and prints.
pub fn run(args: &MapArgs) -> Result<()> {
    let progress = Progress::stderr();
    let state = State::open_named("peerrelay-bench")?;
    let lock = state.lock()?;
    progress.line("building the replay (some minutes the first time)");
    let replay = build()?;
    let mut results = MapResults {
        conditions: conditions::read()?,
        rows: Vec::new(),
    };
    for &devices in &args.devices {
        progress.line(format_args!("{devices} devices"));
        let directory = state.dir("map")?;
        let measured = measure(&replay, &directory, devices);
        fs::remove_dir_all(&directory)?;
        results.rows.push(measured?);
    }
    drop(lock);
    args.output.write(&results, &report::table(&results), || {
        docs::put(docs::MAP, &report::markdown(&results))
    })
}

/// Compiles the test; the path of its executable.
fn build() -> Result<String> {
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .args(["test", "--quiet", "--locked", "--package", "peerrelay"])
        .args(["--lib", "--profile", "bench", "--no-run"])
        .arg("--message-format=json-render-diagnostics");
    let messages = query(&mut cargo)?;
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut executables = messages
        .filter(|message| message["target"]["name"] == "peerrelay")
        .filter_map(|message| message["executable"].as_str().map(str::to_owned));
    executables.next().context("cargo named no executable")
}

fn measure(replay: &str, directory: &Path, devices: u32) -> Result<MapRow> {
    let tailnet = Tailnet { devices };
    let [map_bytes, received_bytes] = tailnet.write(directory)?;
    let mut test = program(replay);
    test.args(["--exact", TEST, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory);
    let text = query(&mut test)?;
    let mut lines = text.lines();
    let line = lines.find(|line| line.starts_with('{'));
    let row = MapRow {
        devices,
        map_bytes,
        received_bytes,
        replay: serde_json::from_str(line.context("the replay printed no results")?)?,
    };
    ensure!(row.replay.load_ms > 0.0, "the replay measured nothing");
    Ok(row)
}
