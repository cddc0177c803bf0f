//! `peerrelay grants`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::manifests;
use crate::grants::{self, Policy};

#[derive(Args)]
#[command(
    after_help = "Example: what to merge into the tailnet policy, before anything is applied\n  \
    peerrelay grants -f relay.yaml\n\nThe operator writes the same into the ConfigMap \
    <name>-grants. The condition GrantsInForce says whether the tailnet has it. Warnings go to \
    standard error."
)]
pub(super) struct GrantsArgs {
    /// File with PeerRelays, '-' for standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// With comments for people, or plain for programs
    #[arg(short, long, value_enum, default_value = "hujson")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Hujson,
    Json,
}

impl GrantsArgs {
    /// Prints the policy of all PeerRelays.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let relays = manifests::read(&self.files)?;
        let regions = relays.iter().flat_map(|relay| &relay.regions);
        let policy = Policy::new(regions.map(|region| region.grant.clone()).collect());
        for warning in policy.warnings() {
            eprintln!("warning: {warning}");
        }
        match self.output {
            Output::Hujson => print!("{}", grants::hujson(&policy)),
            Output::Json => print!("{}", grants::json(&policy)),
        }
        Ok(())
    }
}
