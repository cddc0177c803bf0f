//! `cargo dev`: a real cluster and a real tailnet on one machine.

mod cli;
mod skipped;
mod test;

use std::process::ExitCode;

use clap::Parser;

use self::cli::Cli;

fn main() -> ExitCode {
    rig::signals::install();
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
