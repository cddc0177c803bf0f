//! `cargo dev`: a real cluster and a real tailnet on one machine.

use std::process::ExitCode;

use clap::Parser;
use cluster::cli::Cli;

fn main() -> ExitCode {
    cluster::signals::install();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
