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
    Counts, Extent,
    case::{self, Case},
    proxy::Fault,
    trial::{Golden, Harness, refusals::CODES},
};

/// Refusals of a sample, for each case that has some.
const SAMPLED_REFUSALS: usize = 2;

/// Cases that are to be played, and what they are played with.
pub struct Play<'a> {
    tools: &'a Tools,
    program: &'a Path,
    extent: Extent,
    progress: &'a Progress,
    cases: Vec<Case>,
    start: Instant,
    /// Position of the next case that nobody plays yet.
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
            Extent::Whole(_) => super::matches(&case.name, filter),
            Extent::Sample(_) => case::TYPICAL.contains(&&*case.name),
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
            Extent::Whole(planes) => planes.max(1),
            Extent::Sample(_) => 1,
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

    /// Plays one case without a fault, then with each.
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
        for (nth, fault) in self.points(writes, index) {
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

    /// Every fault at every write, and one write more than there was: a fault may make one. Of a
    /// sample, as many as fit into its time; others for each case.
    fn points(&self, writes: usize, index: usize) -> Vec<(usize, Fault)> {
        /// About what one takes.
        const ONE: Duration = Duration::from_millis(1_500);
        let at = |nth| Fault::ALL.map(|fault| (nth, fault));
        let all: Vec<_> = (0..=writes).flat_map(at).collect();
        let Extent::Sample(time) = self.extent else {
            return all;
        };
        let left = time.saturating_sub(self.start.elapsed());
        let share = left / (self.cases.len() - index) as u32;
        let fit = (share.as_millis() / ONE.as_millis()).max(1) as usize;
        let step = all.len().div_ceil(fit).max(1);
        all.into_iter().skip(index % step).step_by(step).collect()
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
            Extent::Whole(_) => all.collect(),
            Extent::Sample(_) => all.skip(index).take(SAMPLED_REFUSALS).collect(),
        }
    }
}
