//! The operator's requests go wrong, on a control plane of its own without nodes.

use std::time::Duration;

use anyhow::{Result, ensure};
use faults::{Counts, Extent};
use rig::progress::Progress;
use rig::world::World;

use super::Scenario;

/// Of all faults, those that fit into this time; `cargo dev faults` tries all.
const TIME: Duration = Duration::from_secs(75);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a request that fails, or an operator killed before or after it, changes nothing about the end",
            run: sample,
        },
        Scenario {
            name: "the operator asks for nothing it knows and writes nothing that is there",
            run: sparing,
        },
        Scenario {
            name: "a Service that needs two IP families is refused where there is one, which is told \
                   within 5 s and holds up nothing else",
            run: one_family,
        },
        Scenario {
            name: "of two operators one acts, and one that was replaced writes nothing any more",
            run: two,
        },
        Scenario {
            name: "stalled and cut watches and a restarted API server change nothing about the end",
            run: stormy,
        },
    ]
}

fn sample(world: &World<'_>) -> Result<String> {
    let quiet = Progress::new(|line| {
        if line.contains("ALARM") {
            eprintln!("{line}");
        }
    });
    let program = world.rig.program()?;
    let extent = Extent::Sample(TIME);
    let counts = faults::play(world.rig.tools(), &program, "", extent, &quiet)?;
    let Counts {
        stories,
        faults,
        alarms,
    } = counts;
    ensure!(
        alarms == 0,
        "{alarms} of {faults} faults led to another end"
    );
    ensure!(faults > 0, "no fault struck");
    Ok(format!("{faults} faults in {stories} stories"))
}

fn sparing(world: &World<'_>) -> Result<String> {
    faults::show(world.rig.tools(), &world.rig.program()?, "thrift")
}

fn one_family(world: &World<'_>) -> Result<String> {
    faults::show(world.rig.tools(), &world.rig.program()?, "families")
}

fn two(world: &World<'_>) -> Result<String> {
    faults::show(world.rig.tools(), &world.rig.program()?, "replicas")
}

fn stormy(world: &World<'_>) -> Result<String> {
    faults::show(world.rig.tools(), &world.rig.program()?, "weather")
}
