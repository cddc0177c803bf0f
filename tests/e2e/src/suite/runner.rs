//! Scenarios and closing checks on one rig.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use rig::{Rig, deployment::Deployment, progress::Progress, signals, tools::Tools};

use super::{Outcome, TestArgs, Versions, report};
use crate::{
    audit, evidence,
    scenarios::{self, Scenario},
    traces::{self, collector::Collector},
};

/// A check of what a whole run left behind.
#[derive(Clone, Copy)]
pub(super) struct Check {
    /// The sentence that the check shows to hold.
    pub(super) name: &'static str,
    /// True if it means something only after all scenarios, on whichever rig they ran.
    pub(super) needs_all: bool,
    run: fn(&Deployment<'_>, &[PathBuf]) -> Result<String>,
}

/// The closing checks.
pub(super) const CHECKS: [Check; 3] = [
    Check {
        name: "no log, object or argument list has a secret that was used",
        needs_all: false,
        run: |deployment, _| traces::check(deployment),
    },
    Check {
        name: "no request of ours was refused, in the whole run",
        needs_all: false,
        run: |deployment, _| audit::check(deployment),
    },
    Check {
        name: "every right of ours was used, in the whole run",
        needs_all: true,
        run: audit::check_needed,
    },
];

/// A rig with the operator, on which scenarios run.
pub(super) struct Runner<'a> {
    deployment: Deployment<'a>,
}

impl<'a> Runner<'a> {
    /// Installs the operator on a rig.
    fn install(rig: &'a Rig, seed: u64, progress: &Progress) -> Result<Self> {
        progress.line("installing the chart");
        let deployment = Deployment::install(rig)?.with_seed(seed);
        deployment.write_secret(&rig.tailnet.auth_key()?)?;
        Ok(Self { deployment })
    }

    /// The file with the API server's audit log.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.deployment.rig.audit_log()
    }

    /// Runs a scenario. Only an interrupt is an error.
    pub(super) fn run(&self, scenario: &Scenario) -> Result<Outcome> {
        let mut outcome = Outcome::of(scenario.name, || {
            scenarios::surroundings(&self.deployment)?;
            (scenario.run)(&self.deployment)
        });
        signals::check()?;
        if !outcome.passed {
            outcome.evidence = evidence::of(&self.deployment);
            self.remove_leftovers();
        }
        Ok(outcome)
    }

    /// Removes the PeerRelays of a failed scenario, whose ports and devices the next ones need.
    fn remove_leftovers(&self) {
        let all = ["delete", "peerrelays", "--all", "-A", "--timeout=150s"];
        // The failure is reported already; if this fails too, the next scenario shows it.
        self.deployment.rig.kubectl(all).ok();
    }

    /// Runs closing checks; `audit_logs` are those of other rigs of this run.
    pub(super) fn close(&self, checks: &[Check], audit_logs: &[PathBuf]) -> Result<Vec<Outcome>> {
        if checks.is_empty() {
            return Ok(Vec::new());
        }
        // With running relays there are keys to search for, and relays' roles to check.
        scenarios::reset(&self.deployment)?;
        let run =
            |check: &Check| Outcome::of(check.name, || (check.run)(&self.deployment, audit_logs));
        Ok(checks.iter().map(run).collect())
    }
}

/// Brings a rig up, lets `work` use it, and takes it down unless it is to stay.
pub(super) fn on_rig<T>(
    versions: Versions,
    seed: u64,
    keep: bool,
    progress: &Progress,
    work: impl FnOnce(&Runner<'_>) -> Result<T>,
) -> Result<T> {
    let rig = up(versions, progress)?;
    let result = Collector::start(&rig).and_then(|collector| {
        let done = work(&Runner::install(&rig, seed, progress)?)?;
        collector.finish()?;
        Ok(done)
    });
    if !keep {
        signals::acknowledge();
        rig.down(progress)?;
    }
    result
}

fn up(versions: Versions, progress: &Progress) -> Result<Rig> {
    if !versions.oldest {
        return Rig::up(versions.profile(), progress);
    }
    ensure!(
        Rig::parts()?.is_empty(),
        "a rig is up: run `cargo dev down` first"
    );
    let tools = Tools::build(progress)?.with_oldest_kubernetes(progress)?;
    Rig::up_with(tools, versions.profile(), progress)
}

/// Runs scenarios and closing checks on one rig.
pub(super) fn run(
    args: &TestArgs,
    seed: u64,
    scenarios: &[Scenario],
    checks: &[Check],
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    on_rig(args.versions, seed, args.keep, progress, |runner| {
        let mut outcomes = Vec::new();
        for (index, scenario) in scenarios.iter().enumerate() {
            let outcome = runner.run(scenario)?;
            report(&outcome, index + 1, scenarios, progress);
            outcomes.push(outcome);
        }
        for outcome in runner.close(checks, &[])? {
            progress.line(&outcome);
            outcomes.push(outcome);
        }
        Ok(outcomes)
    })
}
