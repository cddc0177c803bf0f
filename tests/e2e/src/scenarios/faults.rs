//! Faults of the operator's requests, on a control plane without nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use faults::{Counts, Extent};
use rig::{deployment::Deployment, progress::Progress};

use super::Scenario;

/// The time of the sample of all faults; `cargo dev faults` tries all of them.
const TIME: Duration = Duration::from_secs(45);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a request that fails, or an operator that is killed before or after it, does not change the end state",
            run: sample,
        },
        Scenario {
            name: "the operator sends no request at rest, and one for each object that changes",
            run: request_budget,
        },
        Scenario {
            name: "a Service that needs two IP families is refused in a cluster with one, which is reported \
                   within 5 s and blocks nothing else",
            run: one_family,
        },
        Scenario {
            name: "of two operators only the leader writes, and a replaced leader writes nothing any more",
            run: replicas,
        },
        Scenario {
            name: "stalled and cut watches and a restarted API server do not change the end state",
            run: watch_faults,
        },
    ]
}

fn sample(deployment: &Deployment<'_>) -> Result<String> {
    let quiet = Progress::new(|line| {
        if line.contains("FAILED") {
            eprintln!("{line}");
        }
    });
    let program = deployment.rig.program()?;
    let extent = Extent::Sample {
        time: TIME,
        seed: deployment.seed,
    };
    let counts = faults::play(deployment.rig.tools(), &program, "", extent, &quiet)?;
    let Counts {
        cases,
        faults,
        failures,
        sample,
    } = counts;
    ensure!(
        failures == 0,
        "{failures} of {faults} faults led to another end (seed {})",
        deployment.seed
    );
    ensure!(faults > 0, "no fault struck");
    // `cargo dev faults CASE --part K/N` repeats a part.
    Ok(format!(
        "{faults} faults in {cases} cases: {}",
        sample.join(", ")
    ))
}

fn request_budget(deployment: &Deployment<'_>) -> Result<String> {
    faults::show(
        deployment.rig.tools(),
        &deployment.rig.program()?,
        "request budget",
    )
}

fn one_family(deployment: &Deployment<'_>) -> Result<String> {
    faults::show(
        deployment.rig.tools(),
        &deployment.rig.program()?,
        "families",
    )
}

fn replicas(deployment: &Deployment<'_>) -> Result<String> {
    faults::show(
        deployment.rig.tools(),
        &deployment.rig.program()?,
        "replicas",
    )
}

fn watch_faults(deployment: &Deployment<'_>) -> Result<String> {
    faults::show(
        deployment.rig.tools(),
        &deployment.rig.program()?,
        "watch faults",
    )
}
