//! The program in the kernel: what it decides, and real packets between network namespaces.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod capabilities;
mod client;
mod detached;
mod entries;
mod filter;
mod first;
mod limits;
mod masquerade;
mod mtu;
mod neighbours;
mod persistence;
mod pins;
mod segments;
mod stacked;
mod tap;
mod translated;
mod uplinks;
mod verdicts;
mod wire;

use super::{
    super::namespace::Net,
    Attachment, abi,
    program::{Maps, Program},
};

/// Opens the namespaces of a test of the program. `None` where this process may not load programs or
/// make namespaces: then the test is recorded as not run.
fn namespaces<const N: usize>(names: [&str; N]) -> Option<Net> {
    is_built().then(|| Net::open(names)).flatten()
}

/// Returns whether this binary has the program; records the test as not run when it does not.
fn is_built() -> bool {
    let built = !super::program::OBJECT.is_empty();
    if !built {
        skips::record("the kernel program was not built: install clang and build again");
    }
    built
}

/// All that can hold the program on this kernel: filters everywhere.
fn attachments() -> Vec<Attachment> {
    let mut all = vec![Attachment::Filter(wire::PORT), Attachment::of(wire::PORT)];
    all.dedup();
    all
}

/// Loads the program with room for so many sessions, attached to nothing: it forwards what it is run
/// on for [`wire::PORT`]. `None` where this process may not: then the test is recorded as not run.
fn loaded(sessions: u32) -> Option<(Program, Maps)> {
    if !(is_built() && skips::is_root()) {
        return None;
    }
    let (program, mut maps, _) = Program::load(None, sessions, Attachment::Link).unwrap();
    let config = abi::Config {
        valid_until: u64::MAX,
        port: wire::PORT,
        ..abi::Config::default()
    };
    maps.config.set(0, config.encode(), 0).unwrap();
    Some((program, maps))
}
