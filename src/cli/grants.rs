//! Subcommand `grants`: the tailnet policy for PeerRelays, and policy files that contain it.

mod file;
mod merge;
mod review;
mod source;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::{merge::MergeArgs, review::ReviewArgs};
use super::{
    manifests::{EXIT_CODES, Files},
    output::{print, print_error},
};
use crate::{
    grants::{self, Policy, RegionGrant},
    operator::validate::ValidSpec,
};

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    subcommand_help_heading = "Commands for policy files",
    after_help = format!("Examples: print the policy for a PeerRelay, or write it into a policy file\n  \
    peerrelay grants -f relay.yaml\n  peerrelay grants merge policy.hujson -f relay.yaml\n\n\
    The operator writes the same policy into the ConfigMap <name>-grants. The condition \
    GrantsInForce shows whether it is in force. {EXIT_CODES}")
)]
pub(super) struct GrantsArgs {
    #[command(subcommand)]
    command: Option<GrantsCommand>,
    #[command(flatten)]
    print: PrintArgs,
}

#[derive(Subcommand)]
enum GrantsCommand {
    /// Write the policy for PeerRelays into a policy file, and keep everything else in it
    Merge(MergeArgs),
    /// Find rules of a policy file that are too wide, without effect or not needed
    Review(ReviewArgs),
}

#[derive(Args)]
struct PrintArgs {
    #[command(flatten)]
    files: Files,
    /// Output format: with comments for people, or plain for programs
    #[arg(short, long, value_enum, default_value = "hujson")]
    output: Output,
    #[command(flatten)]
    tests: TestsArgs,
}

#[derive(Args)]
struct TestsArgs {
    /// Tests in the policy. Overrides `spec.grants.tests`. 'deny' adds tests that relays cannot
    /// reach ports 22 and 443 of clients; a tailnet with an allow-all rule refuses them
    #[arg(long, value_enum)]
    tests: Option<Tests>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tests {
    Disabled,
    Deny,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Hujson,
    Json,
}

impl GrantsArgs {
    /// Runs the subcommand, or prints the policy of all PeerRelays.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(GrantsCommand::Merge(args)) => args.run(),
            Some(GrantsCommand::Review(args)) => args.run(),
            None => self.print.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

impl PrintArgs {
    fn run(self) -> anyhow::Result<()> {
        let policy = Policy::new(self.tests.regions(self.files.relays()?.iter()));
        print_error(format_args!("warning: {}", grants::first_grants_warning()));
        for warning in policy.warnings() {
            print_error(format_args!("warning: {warning}"));
        }
        match self.output {
            Output::Hujson => print(&grants::hujson(&policy))?,
            Output::Json => print(&grants::json(&policy))?,
        }
        Ok(())
    }
}

impl TestsArgs {
    /// Returns the grants of all regions of the PeerRelays.
    fn regions<'a>(&self, relays: impl Iterator<Item = &'a ValidSpec>) -> Vec<RegionGrant> {
        let regions = relays.flat_map(|relay| &relay.regions);
        let grant = regions.map(|region| {
            let mut grant = region.grant.clone();
            if let Some(tests) = self.tests {
                grant.deny_tests = tests == Tests::Deny;
            }
            grant
        });
        grant.collect()
    }
}
