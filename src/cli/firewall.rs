//! Subcommand `firewall`: firewall rules for PeerRelays in files.

use super::{
    manifests::{EXIT_CODES, Files},
    output::{print, print_error},
};
use crate::firewall::{Source, Tool, openings, render, warnings};
use anyhow::Context;
use clap::Args;

#[derive(Args)]
#[command(
    after_help = format!("Example: print the commands for a node with ufw\n  peerrelay firewall -f \
    relay.yaml --for ufw\n\nRelays use UDP only. Do not allow only 100.64.0.0/10, as some guides \
    recommend: this blocks every client, because relay packets come from the clients' addresses \
    outside of the tailnet. {EXIT_CODES}")
)]
pub(super) struct FirewallArgs {
    #[command(flatten)]
    files: Files,
    /// Firewall tool of a node or of a cloud [default: all]
    #[arg(long = "for", value_name = "TOOL", value_enum)]
    tool: Option<Tool>,
    /// Network from which packets are allowed; can be repeated or separated by commas [default:
    /// everywhere]
    #[arg(long = "source", value_name = "CIDR", value_delimiter = ',')]
    sources: Vec<Source>,
}

impl FirewallArgs {
    /// Prints the commands for all PeerRelays.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let sources = match &self.sources[..] {
            [] => Source::everyone(),
            given => given.to_vec(),
        };
        let mut ports = Vec::new();
        for relay in self.files.relays()? {
            let owner = &relay.owner;
            let purpose = format!("{}/{}", owner.namespace, owner.name);
            let found = openings(&purpose, relay.firewall_ports());
            ports.extend(found.with_context(|| format!("PeerRelay {}", owner.name))?);
        }
        ports.sort();
        ports.dedup_by(|one, other| {
            (one.first, one.last, one.delivery) == (other.first, other.last, other.delivery)
        });
        for warning in warnings(&sources) {
            print_error(format_args!("warning: {warning}"));
        }
        let tools = self.tool.as_ref().map_or(Tool::ALL, std::slice::from_ref);
        let texts: Vec<_> = tools
            .iter()
            .map(|tool| render(&ports, &sources, *tool))
            .collect();
        print(&texts.join("\n"))?;
        Ok(())
    }
}
