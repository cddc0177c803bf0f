//! The runner of cases, each with every fault, on one control plane or on several at a time.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result};
use futures::future::try_join_all;
use rig::{progress::Progress, tools::Tools};

use super::{
    Counts, Extent, Part,
    case::{self, Case},
    proxy::Fault,
    trial::{Golden, Harness, refusals::CODES},
};

/// The number of refusals in a sample, for each case that has some.
const SAMPLED_REFUSALS: usize = 2;

/// Cases that are to be played, and what they are played with.
pub struct Play<'a> {
    tools: &'a Tools,
    program: &'a Path,
    extent: Extent,
    progress: &'a Progress,
    cases: Vec<Case>,
    start: Instant,
    /// Position of the next case that no control plane has taken yet.
    next: AtomicUsize,
}

impl<'a> Play<'a> {
    /// Chooses the cases whose name contains one of the parts of `filter`, or those of a sample.
    pub fn new(
        tools: &'a Tools,
        program: &'a Path,
        filter: &str,
        extent: Extent,
        progress: &'a Progress,
    ) -> Self {
        let chosen = |case: &Case| match extent {
            Extent::Whole { .. } => super::matches(&case.name, filter),
            Extent::Sample { .. } => case::TYPICAL.contains(&&*case.name),
        };
        Self {
            tools,
            program,
            extent,
            progress,
            cases: case::all().into_iter().filter(chosen).collect(),
            start: Instant::now(),
            next: AtomicUsize::new(0),
        }
    }

    /// Plays all of them; says what came of it.
    pub async fn run(&self) -> Result<Counts> {
        let most = match self.extent {
            Extent::Whole { planes, .. } => planes.max(1),
            Extent::Sample { .. } => 1,
        };
        let harnesses = (0..most.min(self.cases.len())).map(|_| self.on_one_stage());
        let counts = try_join_all(harnesses).await?;
        Ok(counts.into_iter().fold(Counts::default(), Counts::plus))
    }

    async fn on_one_stage(&self) -> Result<Counts> {
        let mut harness = self.harness().await?;
        self.progress.line("control plane without nodes is up");
        let mut counts = Counts::default();
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = self.cases.get(index) else {
                return Ok(counts);
            };
            counts = counts.plus(self.case(&mut harness, index, case).await?);
        }
    }

    async fn harness(&self) -> Result<Harness> {
        Harness::open(self.tools, self.program).await
    }

    /// Plays one case without a fault, then with each: every fault at every write, and at one write
    /// more than there was, since a fault may cause one.
    async fn case(&self, harness: &mut Harness, index: usize, case: &Case) -> Result<Counts> {
        let name = &case.name;
        let golden = harness.golden(case).await;
        let golden = golden.with_context(|| format!("{name} without a fault"))?;
        let writes = golden.writes().count();
        self.progress.line(format_args!(
            "{name}: {} requests, {writes} of them writes, in {} ms",
            golden.requests.len(),
            golden.took.as_millis(),
        ));
        let mut counts = Counts {
            cases: 1,
            ..Counts::default()
        };
        let all: Vec<_> = (0..=writes)
            .flat_map(|nth| Fault::ALL.map(|fault| (nth, fault)))
            .collect();
        let part = self.part(all.len(), index);
        if matches!(self.extent, Extent::Sample { .. }) {
            counts.sample.push(format!("{name} {part}"));
        }
        for (nth, fault) in all.into_iter().skip(part.first).step_by(part.every) {
            match harness.trial(case, &golden, nth, fault).await {
                Ok(hit) => counts.faults += usize::from(hit),
                Err(error) => {
                    let what = format!("{fault:?} at write {nth}");
                    self.failure(harness, &mut counts, name, &what, error)
                        .await?;
                }
            }
        }
        for (resource, region, code) in self.refusals(case, &golden, index) {
            let what = (&*resource, &*region);
            match harness.refusal(case, &golden, what, code).await {
                Ok(()) => counts.faults += 1,
                Err(error) => {
                    let what = format!("{code} for {resource} of {region}");
                    self.failure(harness, &mut counts, name, &what, error)
                        .await?;
                }
            }
        }
        let Counts {
            faults, failures, ..
        } = counts;
        self.progress
            .line(format_args!("{name}: {faults} faults, {failures} failures"));
        Ok(counts)
    }

    async fn failure(
        &self,
        harness: &mut Harness,
        counts: &mut Counts,
        case: &str,
        what: &str,
        error: Error,
    ) -> Result<()> {
        rig::signals::check()?;
        counts.failures += 1;
        self.progress
            .line(format_args!("FAILED {case}: {what}: {error:#}"));
        // What a failure leaves behind is not to disturb the next.
        *harness = self.harness().await?;
        Ok(())
    }

    /// The part of `faults` to try. A sample has as many as fit into its time, others for each case.
    fn part(&self, faults: usize, index: usize) -> Part {
        /// The usual time of a trial.
        const ONE: Duration = Duration::from_millis(1_500);
        let (time, seed) = match self.extent {
            Extent::Whole { part, .. } => return part,
            Extent::Sample { time, seed } => (time, seed),
        };
        let left = time.saturating_sub(self.start.elapsed());
        let share = left / (self.cases.len() - index) as u32;
        let fit = (share.as_millis() / ONE.as_millis()).max(1) as usize;
        let every = faults.div_ceil(fit).max(1);
        Part {
            first: (index + seed as usize) % every,
            every,
        }
    }

    /// Every kind and region to refuse, and the code.
    fn refusals(&self, case: &Case, golden: &Golden, index: usize) -> Vec<(String, String, u16)> {
        if !case::REFUSED.contains(&&*case.name) {
            return Vec::new();
        }
        let written = golden.written(&case::REGIONS).into_iter();
        let all = written.flat_map(|(resource, region)| {
            CODES.map(|code| (resource.clone(), region.clone(), code))
        });
        match self.extent {
            Extent::Whole { .. } => all.collect(),
            Extent::Sample { seed, .. } => {
                let all: Vec<_> = all.collect();
                let first = (index + seed as usize) % all.len().max(1);
                let turned = all[first..].iter().chain(&all[..first]);
                turned.take(SAMPLED_REFUSALS).cloned().collect()
            }
        }
    }
}
