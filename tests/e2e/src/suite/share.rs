//! A rig beside others: it runs the scenarios that another process gives it, by messages on standard input and
//! output.

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use rig::{progress::Progress, signals};
use serde::{Deserialize, Serialize};

use super::{Outcome, Versions, runner};
use crate::scenarios;

/// Request to a process with a rig, as one line of JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Request {
    /// Run the scenario of this sentence.
    Run(String),
    /// Run some of the closing checks.
    Close {
        /// Sentences of the closing checks.
        checks: Vec<String>,
        /// Audit logs of the other rigs.
        audit_logs: Vec<PathBuf>,
    },
}

/// Answer of a process with a rig, as one line of JSON.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Answer {
    /// The rig is up; the file with its API server's audit log.
    Ready(PathBuf),
    /// The outcome of each scenario or closing check.
    Done(Vec<Outcome>),
}

/// The rig of a process that runs a share of the scenarios.
#[derive(Clone, Debug, clap::Args)]
pub struct ShareArgs {
    #[command(flatten)]
    pub(super) versions: Versions,
    /// Number of the rig, for the lines that it prints
    #[arg(long)]
    pub(super) number: usize,
    /// Seed of what is drawn at random
    #[arg(long)]
    pub(super) seed: u64,
}

impl ShareArgs {
    /// The arguments after the name of the program.
    pub(super) fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            "share".to_owned(),
            format!("--number={}", self.number),
            format!("--seed={}", self.seed),
        ];
        args.extend(self.versions.oldest.then(|| "--oldest".to_owned()));
        args.extend(self.versions.release.then(|| "--release".to_owned()));
        args
    }
}

/// Brings a rig up and answers requests until standard input ends.
pub fn run(args: &ShareArgs) -> Result<()> {
    let number = args.number;
    let progress = Progress::new(move |line| eprintln!("rig {number}: {line}"));
    let all = scenarios::all();
    runner::on_rig(args.versions, args.seed, false, &progress, |runner| {
        send(&Answer::Ready(runner.audit_log()))?;
        for line in io::stdin().lock().lines() {
            let outcomes = match serde_json::from_str(&line?)? {
                Request::Run(name) => {
                    let scenario = all.iter().find(|scenario| scenario.name == name);
                    vec![runner.run(scenario.context("there is no such scenario")?)?]
                }
                Request::Close { checks, audit_logs } => {
                    let checks: Vec<_> = runner::CHECKS
                        .into_iter()
                        .filter(|check| checks.iter().any(|name| name == check.name))
                        .collect();
                    runner.close(&checks, &audit_logs)?
                }
            };
            send(&Answer::Done(outcomes))?;
        }
        signals::check()
    })
}

fn send(answer: &Answer) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{}", serde_json::to_string(answer)?)?;
    output.flush().context("failed to answer")
}
