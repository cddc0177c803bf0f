//! The `peerrelay` program.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    peerrelay::cli::run()
}
