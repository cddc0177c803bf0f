//! The `peerrelay` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    peerrelay::cli::run()
}
