//! The program in the kernel: what it decides, and real packets between network namespaces.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod client;
mod namespace;
mod survival;
mod verdicts;
mod wire;

use std::process::Command;

/// Whether this process may load programs and make network namespaces; says so when not.
fn permitted(test: &str) -> bool {
    if super::program::OBJECT.is_empty() {
        println!("{test} was left out: the program was not built; install clang and build again");
        return false;
    }
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root {
        println!("{test} was left out: it loads a program into the kernel; run it as root");
    }
    root
}
