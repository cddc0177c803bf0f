//! `cargo dev faults`: the operator's requests go wrong, one by one, and it ends in the same state.
//!
//! ```text
//! operator --> proxy --> kube-apiserver, etcd, controllers (no nodes needed)
//!               records each request; kills the operator before or after a write, or answers it
//!               with a fault; cuts and stalls watches
//! ```

pub mod api;
pub mod case;
pub mod control_plane;
pub mod families;
pub mod operator;
pub mod play;
pub mod proxy;
pub mod record;
pub mod replicas;
pub mod request_budget;
pub mod snapshot;
pub mod trial;
pub mod watch_faults;

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use rig::{
    build::{self, Profile},
    packages,
    progress::Progress,
    tools::Tools,
};
use tokio::runtime::Runtime;

use self::{play::Play, trial::Harness};

/// The choice of cases.
#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Only cases whose name contains this, or one of several parts: `two:|exposure`
    filter: Option<String>,
    /// Control planes at a time; each takes about 0.6 GiB
    #[arg(long, default_value_t = 3)]
    planes: usize,
}

/// Numbers of what was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Number of cases.
    pub cases: usize,
    /// Number of faults that struck.
    pub faults: usize,
    /// Number of faults after which the end differs from that without a fault.
    pub failures: usize,
}

impl Counts {
    /// The sums of two runs.
    fn plus(self, other: Self) -> Self {
        Self {
            cases: self.cases + other.cases,
            faults: self.faults + other.faults,
            failures: self.failures + other.failures,
        }
    }
}

/// The extent of a run.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// All faults, on so many control planes at a time: most of the time is spent on waits.
    Whole(usize),
    /// Typical cases, and as many faults as fit into this time, spread over all.
    Sample(Duration),
}

/// Tries every fault at every write of every case, and what befalls watches and replicas.
pub fn run(args: &FaultsArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let tools = Tools::build(&progress)?;
    let program = build::peerrelay(Profile::Dev, &progress)?;
    let filter = args.filter.as_deref().unwrap_or_default();
    let Counts {
        cases,
        faults,
        failures,
    } = play(
        &tools,
        &program,
        filter,
        Extent::Whole(args.planes),
        &progress,
    )?;
    for show in SHOWS.iter().filter(|show| matches(show, filter)) {
        let seen = self::show(&tools, &program, show)?;
        progress.line(format_args!("{show}: {seen}"));
    }
    println!("faults: {faults} in {cases} cases, {failures} failures");
    if failures > 0 {
        bail!("{failures} faults led to another end");
    }
    Ok(())
}

/// The shows that are run besides the cases.
const SHOWS: [&str; 4] = ["request budget", "families", "replicas", "watch faults"];

/// Shows one of `request budget`, `families`, `replicas`, `watch faults` on a control plane of its own.
pub fn show(tools: &Tools, program: &Path, which: &str) -> Result<String> {
    runtime()?.block_on(async {
        let mut harness = Harness::open(tools, program).await?;
        match which {
            "request budget" => request_budget::show(&mut harness).await,
            "families" => families::show(&mut harness).await,
            "replicas" => replicas::show(&mut harness, program).await,
            "watch faults" => watch_faults::show(&mut harness).await,
            other => bail!("there is no {other} to show"),
        }
    })
}

/// Plays the cases that match `filter`, or a sample of all.
pub fn play(
    tools: &Tools,
    program: &Path,
    filter: &str,
    extent: Extent,
    progress: &Progress,
) -> Result<Counts> {
    let play = Play::new(tools, program, filter, extent, progress);
    runtime()?.block_on(play.run())
}

/// Says whether `name` contains one of the parts of `filter`.
fn matches(name: &str, filter: &str) -> bool {
    filter.split('|').any(|part| name.contains(part))
}

/// The runtime of the proxies.
pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}
