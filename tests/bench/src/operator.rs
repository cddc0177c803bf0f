//! `cargo dev bench operator`: what the operator asks the API server for, how soon, and its memory.
//!
//! On the control plane without nodes of `cargo dev faults`: what is measured is the operator, and
//! not how fast images are pulled.

pub mod crowd;
pub mod report;
pub mod scenarios;

use anyhow::Result;
use faults::runtime;
use rig::{
    build::{self, Profile},
    packages,
    progress::Progress,
    state::State,
    tools::Tools,
};
use serde::{Deserialize, Serialize};

use self::{crowd::Crowd, scenarios::Scenario};
use super::{conditions, docs, output::Output, row::Conditions};

/// The choice of scenarios and crowds.
#[derive(Debug, clap::Args)]
pub struct OperatorArgs {
    /// Number of times that each scenario is played
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Only scenarios whose name contains this
    #[arg(long, value_name = "FILTER")]
    scenarios: Option<String>,
    /// Numbers of PeerRelays at which memory is measured
    #[arg(
        long,
        value_name = "NUMBER",
        value_delimiter = ',',
        default_value = "1,100,1000"
    )]
    peer_relays: Vec<usize>,
    #[command(flatten)]
    output: Output,
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct OperatorResults {
    /// The conditions of the run.
    pub conditions: Conditions,
    /// Number of times that each scenario was played.
    pub rounds: u8,
    /// The figures of each scenario.
    pub scenarios: Vec<Scenario>,
    /// The crowds, one for each number of PeerRelays.
    pub crowds: Vec<Crowd>,
}

/// Measures and prints.
pub fn run(args: &OperatorArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let lock = State::open_named("peerrelay-bench")?.lock()?;
    let tools = Tools::build(&progress)?;
    let program = build::peerrelay(Profile::Release, &progress)?;
    let filter = args.scenarios.as_deref().unwrap_or_default();
    let mut results = OperatorResults {
        conditions: conditions::read()?,
        rounds: args.rounds,
        ..OperatorResults::default()
    };
    runtime()?.block_on(async {
        results.scenarios =
            scenarios::measure(&tools, &program, filter, args.rounds, &progress).await?;
        results.crowds = crowd::measure(&tools, &program, &args.peer_relays, &progress).await?;
        anyhow::Ok(())
    })?;
    drop(lock);
    args.output.write(&results, &report::table(&results), || {
        docs::put(docs::OPERATOR, &report::markdown(&results))
    })
}
