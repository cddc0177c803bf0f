//! Subcommand `grants`: the tailnet policy for PeerRelays in files.

use clap::{Args, ValueEnum};

use super::{
    manifests::{EXIT_CODES, Files},
    output::{print, print_error},
};
use crate::{
    grants::{self, Policy},
    operator::validate::ValidRegion,
};

#[derive(Args)]
#[command(
    after_help = format!("Example: print the policy to merge, before the PeerRelay is applied\n  \
    peerrelay grants -f relay.yaml\n\nThe operator writes the same policy into the ConfigMap \
    <name>-grants. The condition GrantsInForce shows whether it is in force. {EXIT_CODES}")
)]
pub(super) struct GrantsArgs {
    #[command(flatten)]
    files: Files,
    /// Output format: with comments for people, or plain for programs
    #[arg(short, long, value_enum, default_value = "hujson")]
    output: Output,
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
    /// Prints the policy of all PeerRelays.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let relays = self.files.relays()?;
        let regions = relays.iter().flat_map(|relay| &relay.regions);
        let grant = |region: &ValidRegion| {
            let mut grant = region.grant.clone();
            if let Some(tests) = self.tests {
                grant.deny_tests = tests == Tests::Deny;
            }
            grant
        };
        let policy = Policy::new(regions.map(grant).collect());
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
