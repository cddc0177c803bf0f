//! `peerrelay firewall`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;

use super::manifests;
use crate::firewall::{Source, Tool, openings, render, warnings};

#[derive(Args)]
#[command(
    after_help = "Example: what to run on a node with ufw\n  peerrelay firewall -f relay.yaml \
    --for ufw\n\nRelays use UDP only. Guides recommend to let in 100.64.0.0/10 only: that blocks \
    every client, as relay packets come from the clients' addresses outside of the tailnet. \
    Warnings go to standard error."
)]
pub(super) struct FirewallArgs {
    /// File with PeerRelays, '-' for standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Which firewall [default: all of them]
    #[arg(long = "for", value_name = "TOOL", value_enum)]
    tool: Option<Tool>,
    /// Let in only from here; may be repeated, or separated by commas [default: from everywhere]
    #[arg(long = "source", value_name = "CIDR", value_delimiter = ',')]
    sources: Vec<IpNet>,
}

impl FirewallArgs {
    /// Prints the commands for all PeerRelays.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let sources = match &self.sources[..] {
            [] => Source::everyone(),
            given => given.iter().map(|net| Source::network(*net)).collect(),
        };
        let mut ports = Vec::new();
        for relay in manifests::read(&self.files)? {
            let found = openings(&relay);
            ports.extend(found.with_context(|| format!("PeerRelay {}", relay.name))?);
        }
        ports.sort();
        ports.dedup_by_key(|opening| opening.port);
        for warning in warnings(&sources) {
            eprintln!("warning: {warning}");
        }
        let tools = self.tool.as_ref().map_or(Tool::ALL, std::slice::from_ref);
        let texts: Vec<_> = tools
            .iter()
            .map(|tool| render(&ports, &sources, *tool))
            .collect();
        print!("{}", texts.join("\n"));
        Ok(())
    }
}
