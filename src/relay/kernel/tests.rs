//! The program in the kernel: what it decides, and real packets between network namespaces.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod capabilities;
mod client;
mod detached;
mod entries;
mod filter;
mod first;
mod limits;
mod mtu;
mod segments;
mod stacked;
mod survival;
mod tap;
mod uplinks;
mod verdicts;
mod wire;

use super::{
    super::namespace,
    Attachment, abi,
    program::{Maps, Program},
};

/// Whether this process may load programs and make network namespaces; says so when not.
fn permitted(test: &str) -> bool {
    if super::program::OBJECT.is_empty() {
        println!("{test} was left out: the program was not built; install clang and build again");
        return false;
    }
    namespace::permitted(test)
}

/// All that can hold the program on this kernel: filters everywhere.
fn attachments() -> Vec<Attachment> {
    let mut all = vec![Attachment::Filter(wire::PORT), Attachment::of(wire::PORT)];
    all.dedup();
    all
}

/// The program with room for so many sessions, for as long as the test lasts, attached to nothing: it
/// forwards what it is run on for [`wire::PORT`].
fn loaded(sessions: u32) -> (Program, Maps) {
    let (program, mut maps, _) = Program::load(None, sessions, Attachment::Link).unwrap();
    let config = abi::Config {
        valid_until: u64::MAX,
        port: wire::PORT,
        ..abi::Config::default()
    };
    maps.config.set(0, config.encode(), 0).unwrap();
    (program, maps)
}
