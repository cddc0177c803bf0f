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
pub mod names;
pub mod operator;
pub mod play;
pub mod proxy;
pub mod record;
pub mod replicas;
pub mod request_budget;
pub mod snapshot;
pub mod trial;
pub mod watch_faults;

use std::{fmt, path::Path, str::FromStr, time::Duration};

use anyhow::{Context, Error, Result, bail, ensure};
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
    /// Of each case, only every Nth fault, from the Kth: `K/N`, as `cargo dev test` names its sample
    #[arg(long, value_name = "K/N", default_value_t = Part::ALL)]
    part: Part,
}

/// Every so many faults of a case, from one on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position of the first fault, below `every`.
    first: usize,
    /// Distance of the faults, at least 1.
    every: usize,
}

impl Part {
    /// The part that is the whole.
    pub const ALL: Self = Self { first: 0, every: 1 };
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.every)
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, every) = text.split_once('/').context("a part is K/N, such as 0/1")?;
        let (first, every) = (first.parse()?, every.parse()?);
        ensure!(first < every, "in a part K/N, K is below N");
        Ok(Self { first, every })
    }
}

/// Numbers of what was tried.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Number of cases.
    pub cases: usize,
    /// Number of faults that struck.
    pub faults: usize,
    /// Number of faults after which the end differs from that without a fault.
    pub failures: usize,
    /// The part of each case that a sample has tried, as `CASE K/N`.
    pub sample: Vec<String>,
}

impl Counts {
    /// The sums of two runs.
    fn plus(mut self, other: Self) -> Self {
        self.sample.extend(other.sample);
        Self {
            cases: self.cases + other.cases,
            faults: self.faults + other.faults,
            failures: self.failures + other.failures,
            sample: self.sample,
        }
    }
}

/// The extent of a run.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// All cases that match a filter, and this part of their faults.
    Whole {
        /// Control planes at a time: most of the time is spent on waits.
        planes: usize,
        /// The part of each case's faults.
        part: Part,
    },
    /// Typical cases, and as many faults as fit into a time, spread over all.
    Sample {
        /// The time that the faults may take.
        time: Duration,
        /// The seed that decides which faults these are.
        seed: u64,
    },
}

/// Tries every fault at every write of every case, and the faults of watches and replicas.
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
        ..
    } = play(
        &tools,
        &program,
        filter,
        Extent::Whole {
            planes: args.planes,
            part: args.part,
        },
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
