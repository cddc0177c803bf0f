//! Several rigs that share the scenarios: each takes the next one when it has ended one.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rig::{instance, progress::Progress, signals, tools::Tools};

use super::{
    Outcome, Versions, report,
    runner::Check,
    share::{Answer, Request, ShareArgs},
};
use crate::scenarios::Scenario;

/// Interval at which an interrupt is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs scenarios and closing checks on so many rigs.
pub(super) fn run(
    rigs: usize,
    versions: Versions,
    seed: u64,
    scenarios: &[Scenario],
    checks: &[Check],
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    rig::packages::ensure(progress)?;
    // Once, before the rigs ask for them.
    Tools::build(progress)?;
    progress.line(format_args!("{rigs} rigs share the scenarios"));
    let args = (1..=rigs).map(|number| ShareArgs {
        versions,
        number,
        seed,
    });
    let mut shares = args.map(Share::start).collect::<Result<Vec<_>>>()?;
    let pids: Vec<_> = shares.iter().map(Share::pid).collect();
    let queue = Queue::new(scenarios, progress);
    let result = supervised(&pids, || {
        on_each(&mut shares, |share| queue.serve(share))?;
        close(&mut shares, checks, progress)
    });
    // The directories that rigs share go with the last one, so the first to come up goes last.
    let ended = shares.into_iter().rev().map(Share::end);
    let ended = ended
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Result<()>>();
    let closing = result?;
    ended?;
    let mut outcomes = queue.outcomes();
    outcomes.extend(closing);
    Ok(outcomes)
}

/// Scenarios that no rig has begun, and the outcomes of the others.
struct Queue<'a> {
    scenarios: &'a [Scenario],
    next: AtomicUsize,
    outcomes: Mutex<Vec<Outcome>>,
    progress: &'a Progress,
}

impl<'a> Queue<'a> {
    const fn new(scenarios: &'a [Scenario], progress: &'a Progress) -> Self {
        Self {
            scenarios,
            next: AtomicUsize::new(0),
            outcomes: Mutex::new(Vec::new()),
            progress,
        }
    }

    /// Gives a rig scenarios until none is left.
    fn serve(&self, share: &mut Share) -> Result<()> {
        share.wait_ready()?;
        while let Some(scenario) = self.next() {
            let ended = share.ask(&Request::Run(scenario.name.to_owned()))?;
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.extend(ended.iter().cloned());
            for outcome in &ended {
                report(outcome, outcomes.len(), self.scenarios, self.progress);
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<&Scenario> {
        self.scenarios
            .get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn outcomes(self) -> Vec<Outcome> {
        let outcomes = self.outcomes.into_inner();
        outcomes.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs closing checks on each rig, and on the first those that need what all have done.
fn close(shares: &mut [Share], checks: &[Check], progress: &Progress) -> Result<Vec<Outcome>> {
    let logs: Vec<_> = shares.iter().map(|share| share.audit_log.clone()).collect();
    let mut outcomes = Vec::new();
    for (index, share) in shares.iter_mut().enumerate() {
        let wanted = checks.iter().filter(|check| index == 0 || !check.needs_all);
        let others = logs.iter().enumerate().filter(|(other, _)| *other != index);
        let request = Request::Close {
            checks: wanted.map(|check| check.name.to_owned()).collect(),
            audit_logs: others.map(|(_, log)| log.clone()).collect(),
        };
        let ended = share.ask(&request)?;
        for outcome in &ended {
            progress.line(format_args!("rig {}: {outcome}", index + 1));
        }
        outcomes.extend(ended);
    }
    Ok(outcomes)
}

/// Does the same with each rig at the same time.
fn on_each(shares: &mut [Share], work: impl Fn(&mut Share) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter_mut()
            .map(|share| scope.spawn(|| work(share)))
            .collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect();
        results.into_iter().collect()
    })
}

/// Does something that waits for processes, which an interrupt of this process ends too.
fn supervised<T: Send>(pids: &[i32], work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(work);
        while !thread.is_finished() {
            if signals::check().is_err() {
                pids.iter().copied().for_each(signals::terminate);
                break;
            }
            thread::sleep(INTERVAL);
        }
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

/// A process with a rig of its own.
struct Share {
    number: usize,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    audit_log: PathBuf,
}

impl Share {
    fn start(args: ShareArgs) -> Result<Self> {
        let name = match args.number {
            1 => String::new(),
            number => number.to_string(),
        };
        let mut command = instance::command(&name)?;
        let mut child = command
            .args(args.to_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start rig {}", args.number))?;
        Ok(Self {
            number: args.number,
            requests: child.stdin.take().context("it has no standard input")?,
            answers: BufReader::new(child.stdout.take().context("it has no standard output")?),
            child,
            audit_log: PathBuf::new(),
        })
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("ids of processes are small")
    }

    /// Waits until the rig is up.
    fn wait_ready(&mut self) -> Result<()> {
        match self.answer()? {
            Answer::Ready(audit_log) => self.audit_log = audit_log,
            Answer::Done(_) => bail!("rig {} has answered too early", self.number),
        }
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<Vec<Outcome>> {
        writeln!(self.requests, "{}", serde_json::to_string(request)?)?;
        match self.answer()? {
            Answer::Done(outcomes) => Ok(outcomes),
            Answer::Ready(_) => bail!("rig {} has started again", self.number),
        }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "rig {} has ended, see above", self.number);
        serde_json::from_str(&line).with_context(|| format!("rig {} says {line}", self.number))
    }

    /// Lets the process take its rig down, and waits until it has ended.
    fn end(self) -> Result<()> {
        let Self {
            number,
            mut child,
            requests,
            ..
        } = self;
        drop(requests);
        let status = child.wait()?;
        ensure!(status.success(), "rig {number} has ended with {status}");
        Ok(())
    }
}
