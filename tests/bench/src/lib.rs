//! `cargo dev bench`: how fast and how large, beside what else there is.

pub mod case;
pub mod conditions;
pub mod cpu;
pub mod docs;
pub mod flood;
pub mod implementation;
pub mod latency;
pub mod legacy;
pub mod load;
pub mod map;
pub mod memory;
pub mod operator;
pub mod output;
pub mod paced;
pub mod plot;
pub mod processes;
pub mod relay;
pub mod restart;
pub mod row;
pub mod scale;
pub mod server;
pub mod session;
pub mod statistics;
pub mod syscalls;
pub mod system;
pub mod table;
pub mod targets;
pub mod topology;

use anyhow::Result;
use clap::Subcommand;

use self::{
    flood::FloodArgs, map::MapArgs, operator::OperatorArgs, plot::PlotArgs, processes::MemoryArgs,
    relay::RelayArgs, restart::RestartArgs, scale::ScaleArgs,
};

/// The measurements.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Compare this relay with Tailscale's, with routing and with address translation
    Relay(RelayArgs),
    /// Kill and replace relays under load, and count what their clients lose
    Restart(RestartArgs),
    /// Attack relays under load, and count what sessions lose and memory grows
    Flood(FloodArgs),
    /// Compare the speed of a relay with a thousand sessions and with a million
    Scale(ScaleArgs),
    /// Count the operator's requests for every change, and its memory with many PeerRelays
    Operator(OperatorArgs),
    /// Show what operator and idle relays take, as released, with one PeerRelay
    Memory(MemoryArgs),
    /// Measure how network maps of large tailnets are read
    Map(MapArgs),
    /// Draw the results of a file
    Plot(PlotArgs),
}

impl Bench {
    /// Runs the measurement.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Relay(args) => relay::run(&args),
            Self::Restart(args) => restart::run(&args),
            Self::Flood(args) => flood::run(&args),
            Self::Scale(args) => scale::run(&args),
            Self::Operator(args) => operator::run(&args),
            Self::Memory(args) => processes::run(&args),
            Self::Map(args) => map::run(&args),
            Self::Plot(args) => plot::run(&args),
        }
    }
}
