//! `cargo dev faults`: the operator's requests go wrong, one by one, and it ends in the same state.
//!
//! ```text
//! operator --> proxy --> kube-apiserver, etcd, controllers (no nodes needed)
//!               records each request; kills the operator before or after a write, or answers it
//!               with a fault; cuts and stalls watches
//! ```

pub mod api;
pub mod operator;
pub mod plane;
pub mod proxy;
pub mod record;
pub mod replicas;
pub mod shape;
pub mod story;
pub mod thrift;
pub mod trial;
pub mod weather;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

use self::proxy::Fault;
use self::trial::{Stage, refusals::CODES};
use crate::build::{self, Profile};
use crate::packages;
use crate::progress::Progress;
use crate::tools::Tools;

/// Refusals of a sample, for each story that has some.
const SAMPLED_REFUSALS: usize = 2;

/// What to try.
#[derive(Debug, clap::Args)]
pub struct FaultsArgs {
    /// Only stories whose name contains this
    filter: Option<String>,
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

/// Which faults to try.
#[derive(Clone, Copy, Debug)]
pub enum Extent {
    /// All of them.
    Whole,
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
    } = play(&tools, &program, filter, Extent::Whole, &progress)?;
    for show in SHOWS.iter().filter(|show| show.contains(filter)) {
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
const SHOWS: [&str; 3] = ["thrift", "replicas", "weather"];

/// Shows one of `thrift`, `replicas`, `weather` on a control plane of its own.
pub fn show(tools: &Tools, program: &Path, which: &str) -> Result<String> {
    runtime()?.block_on(async {
        let mut stage = Stage::open(tools, program).await?;
        match which {
            "thrift" => thrift::show(&mut stage).await,
            "replicas" => replicas::show(&mut stage, program).await,
            "weather" => weather::show(&mut stage).await,
            other => bail!("there is no {other} to show"),
        }
    })
}

/// Plays the stories that contain `filter`.
pub fn play(
    tools: &Tools,
    program: &Path,
    filter: &str,
    extent: Extent,
    progress: &Progress,
) -> Result<Counts> {
    let stories: Vec<_> = story::all()
        .into_iter()
        .filter(|story| match extent {
            Extent::Whole => story.name.contains(filter),
            Extent::Sample(_) => story::TYPICAL.contains(&&*story.name),
        })
        .collect();
    runtime()?.block_on(async {
        if stories.is_empty() {
            return Ok(Counts::default());
        }
        let mut stage = Stage::open(tools, program).await?;
        progress.line("control plane without nodes is up");
        let mut counts = Counts::default();
        let start = Instant::now();
        for (index, story) in stories.iter().enumerate() {
            let golden = stage
                .golden(story)
                .await
                .with_context(|| format!("{} without a fault", story.name))?;
            counts.stories += 1;
            progress.line(format_args!(
                "{}: {} requests, {} of them writes, in {} ms",
                story.name,
                golden.requests.len(),
                golden.writes().count(),
                golden.took.as_millis(),
            ));
            let mut points = points(golden.writes().count());
            if let Extent::Sample(time) = extent {
                let share = time.saturating_sub(start.elapsed()) / (stories.len() - index) as u32;
                sample(&mut points, share, index);
            }
            let mut struck = 0;
            for (nth, fault) in points {
                match stage.trial(story, &golden, nth, fault).await {
                    Ok(hit) => struck += usize::from(hit),
                    Err(error) => {
                        crate::signals::check()?;
                        counts.alarms += 1;
                        progress.line(format_args!(
                            "ALARM {}: {fault:?} at write {nth}: {error:#}",
                            story.name
                        ));
                        // What an alarm leaves behind is not to disturb the next.
                        stage = Stage::open(tools, program).await?;
                    }
                }
            }
            counts.faults += struck;
            let mut refusals = refusals(story, &golden);
            if let Extent::Sample(_) = extent {
                let (all, offset) = (std::mem::take(&mut refusals), index);
                refusals = all
                    .into_iter()
                    .skip(offset)
                    .take(SAMPLED_REFUSALS)
                    .collect();
            }
            for (resource, region, code) in refusals {
                let what = (&*resource, &*region);
                match stage.refusal(story, &golden, what, code).await {
                    Ok(()) => counts.faults += 1,
                    Err(error) => {
                        crate::signals::check()?;
                        counts.alarms += 1;
                        progress.line(format_args!(
                            "ALARM {}: {code} for {resource} of {region}: {error:#}",
                            story.name
                        ));
                        stage = Stage::open(tools, program).await?;
                    }
                }
            }
        }
        Ok(counts)
    })
}

/// Runs the proxies.
pub fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

/// Every fault at every write, and one write more than there was: a fault may make one.
fn points(writes: usize) -> Vec<(usize, Fault)> {
    let at = |nth| Fault::ALL.map(|fault| (nth, fault));
    (0..=writes).flat_map(at).collect()
}

/// Every kind and region to refuse, and the code.
fn refusals(story: &story::Story, golden: &trial::Golden) -> Vec<(String, String, u16)> {
    if !story::REFUSED.contains(&&*story.name) {
        return Vec::new();
    }
    let written = golden.written(&story::REGIONS).into_iter();
    let with_codes = written
        .flat_map(|(resource, region)| CODES.map(|code| (resource.clone(), region.clone(), code)));
    with_codes.collect()
}

/// As many as fit into `share`; another choice for each story.
fn sample(points: &mut Vec<(usize, Fault)>, share: Duration, seed: usize) {
    /// About what one takes.
    const ONE: Duration = Duration::from_millis(1_500);
    let fit = (share.as_millis() / ONE.as_millis()).max(1) as usize;
    let step = points.len().div_ceil(fit).max(1);
    let all = std::mem::take(points);
    let offset = seed % step;
    *points = all.into_iter().skip(offset).step_by(step).collect();
}
