//! `cargo dev faults`: the operator's requests go wrong, one by one, and it ends in the same state.
//!
//! ```text
//! operator --> proxy --> kube-apiserver, etcd, controllers (no nodes needed)
//!               records each request; kills the operator before or after a write, or answers it
//!               with a fault; cuts and stalls watches
//! ```

pub mod api;
pub mod families;
pub mod operator;
pub mod plane;
pub mod play;
pub mod proxy;
pub mod record;
pub mod replicas;
pub mod shape;
pub mod story;
pub mod thrift;
pub mod trial;
pub mod weather;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use rig::build::{self, Profile};
use rig::packages;
use rig::progress::Progress;
use rig::tools::Tools;
use tokio::runtime::Runtime;

use self::play::Play;
use self::trial::Stage;

/// What to try.
#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Only stories whose name contains this, or one of several parts: `two:|exposure`
    filter: Option<String>,
    /// Control planes at a time; each takes about 0.6 GiB
    #[arg(long, default_value_t = 3)]
    planes: usize,
}

/// What was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Stories.
    pub stories: usize,
    /// Faults that struck.
    pub faults: usize,
    /// Ended otherwise than without a fault.
    pub alarms: usize,
}

impl Counts {
    /// The sum of both.
    fn plus(self, other: Self) -> Self {
        Self {
            stories: self.stories + other.stories,
            faults: self.faults + other.faults,
            alarms: self.alarms + other.alarms,
        }
    }
}

/// Which faults to try.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// All of them, on so many control planes at a time: a fault is mostly waited for.
    Whole(usize),
    /// Typical stories, and as many faults as fit into this time, spread over all.
    Sample(Duration),
}

/// Tries every fault at every write of every story, and what befalls watches and replicas.
pub fn run(args: &FaultsArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let tools = Tools::build(&progress)?;
    let program = build::peerrelay(Profile::Dev, &progress)?;
    let filter = args.filter.as_deref().unwrap_or_default();
    let Counts {
        stories,
        faults,
        alarms,
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
    println!("faults: {faults} in {stories} stories, {alarms} alarms");
    if alarms > 0 {
        bail!("{alarms} faults led to another end");
    }
    Ok(())
}

/// What is shown besides the stories.
const SHOWS: [&str; 4] = ["thrift", "families", "replicas", "weather"];

/// Shows one of `thrift`, `families`, `replicas`, `weather` on a control plane of its own.
pub fn show(tools: &Tools, program: &Path, which: &str) -> Result<String> {
    runtime()?.block_on(async {
        let mut stage = Stage::open(tools, program).await?;
        match which {
            "thrift" => thrift::show(&mut stage).await,
            "families" => families::show(&mut stage).await,
            "replicas" => replicas::show(&mut stage, program).await,
            "weather" => weather::show(&mut stage).await,
            other => bail!("there is no {other} to show"),
        }
    })
}

/// Plays the stories that match `filter`, or a sample of all.
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

/// Whether `name` contains one of the parts of `filter`.
fn matches(name: &str, filter: &str) -> bool {
    filter.split('|').any(|part| name.contains(part))
}

/// Runs the proxies.
pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}
