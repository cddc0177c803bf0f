//! `cargo dev bench`: how fast and how large, beside what else there is.

pub mod case;
pub mod conditions;
pub mod cpu;
pub mod docs;
pub mod implementation;
pub mod latency;
pub mod load;
pub mod memory;
pub mod operator;
pub mod plot;
pub mod processes;
pub mod relay;
pub mod row;
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

use self::operator::OperatorArgs;
use self::plot::PlotArgs;
use self::processes::MemoryArgs;
use self::relay::RelayArgs;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Compare this relay with Tailscale's, with routing and with address translation
    Relay(RelayArgs),
    /// Count the operator's requests for every change, and its memory with many PeerRelays
    Operator(OperatorArgs),
    /// Show what operator and idle relays take, as released, with one PeerRelay
    Memory(MemoryArgs),
    /// Draw results
    Plot(PlotArgs),
}

impl Bench {
    /// Runs it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Relay(args) => relay::run(&args),
            Self::Operator(args) => operator::run(&args),
            Self::Memory(args) => processes::run(&args),
            Self::Plot(args) => plot::run(&args),
        }
    }
}
