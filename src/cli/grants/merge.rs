//! Subcommand `grants merge`: the entries of PeerRelays in a policy file.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use super::{TestsArgs, file, source::Source};
use crate::{
    cli::{
        input::{is_standard, shown},
        output::{print, print_error},
    },
    grants::{
        Policy,
        policy_file::{self, MergeRequest},
    },
};

/// Exit code of `--check` if the merge would change the file.
const DIFFERS: u8 = 3;

#[derive(Args)]
#[command(after_help = "\
Examples:
  peerrelay grants merge policy.hujson -f relay.yaml
      write the entries for a PeerRelay into the policy file
  peerrelay grants merge policy.hujson -f deploy/ --check
      fail in CI if the file is not up to date, and show the difference
  peerrelay grants merge - -f relay.yaml < policy.hujson > merged.hujson
      read standard input and write standard output

A comment above each entry (\"Managed by peerrelay grants merge: ...\") marks it as generated. Keep \
the comment with the entry: entries may be moved, and a later merge finds them by it. A changed \
PeerRelay changes its entries, and a removed region removes them. Owners of a tag are written once \
and then belong to you. All other bytes of the file stay as they are, and a second merge changes \
nothing. The file is replaced as a whole or not at all.

Exit codes: 0 if the file is merged or, with --check, up to date; 1 if the policy file or a \
PeerRelay is invalid or a file cannot be read or written; 2 for incorrect usage; 3 if --check finds \
a difference; 141 if standard output is closed.")]
pub(super) struct MergeArgs {
    /// Policy file, as HuJSON or JSON, or '-' for standard input
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Print the difference and write nothing
    #[arg(long, conflicts_with = "output")]
    check: bool,
    /// File to write, or '-' for standard output [default: the policy file; standard output if it
    /// is '-']
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Owner of the relays' tags; can be repeated or separated by commas. Existing entries with a
    /// marker get these owners. For keys of an OAuth client, name the client's tag; for Headscale,
    /// name a user, such as ops@ [default: autogroup:admin for new tags]
    #[arg(long = "tag-owner", value_name = "OWNER", value_delimiter = ',')]
    tag_owners: Vec<String>,
    #[command(flatten)]
    tests: TestsArgs,
    /// Name of the cluster in the markers. Use it if PeerRelays of several clusters have the same
    /// namespace and name
    #[arg(long, value_name = "NAME", value_parser = cluster)]
    cluster: Option<String>,
    /// Permit the first grants of a policy that has neither acls nor grants. Such a policy allows
    /// every connection, and the first grants end that
    #[arg(long, value_enum, value_name = "EFFECT")]
    first_grants: Option<FirstGrants>,
    /// Accept objects that repeat a name, and use the last one
    #[arg(long)]
    allow_duplicate_names: bool,
    /// Take over grants and tests for the relays' tags that have no marker, such as those that were
    /// merged by hand. Their clients become those of the PeerRelay
    #[arg(long)]
    adopt: bool,
    /// Remove marked entries of all PeerRelays of this cluster that are not given
    #[arg(long)]
    prune: bool,
    /// Write no markers, for files that other programs read as JSON. Updates then need --adopt, and
    /// entries are not removed
    #[arg(long, conflicts_with = "prune")]
    no_markers: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FirstGrants {
    /// Keep every connection allowed, by an additional grant
    AllowAll,
    /// Allow nothing but relays
    RelaysOnly,
}

impl MergeArgs {
    /// Merges, and writes or compares the result.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.source.check_input_of(&self.policy)?;
        for owner in &self.tag_owners {
            ensure!(
                !owner.is_empty() && !owner.contains(char::is_whitespace),
                "--tag-owner '{owner}' is not an owner: write a tag, group, autogroup or user"
            );
        }
        let relays = self.source.peer_relays()?;
        let regions = self.tests.regions(relays.iter().map(|relay| &relay.spec));
        for warning in Policy::new(regions.clone()).warnings() {
            print_error(format_args!("warning: {warning}"));
        }
        let owners = (!self.tag_owners.is_empty()).then(|| self.tag_owners.clone());
        let request = MergeRequest {
            regions,
            owners,
            cluster: self.cluster.clone(),
            first_grants: self.first_grants.map(|effect| match effect {
                FirstGrants::AllowAll => policy_file::FirstGrants::AllowAll,
                FirstGrants::RelaysOnly => policy_file::FirstGrants::RelaysOnly,
            }),
            duplicate_names: self.allow_duplicate_names,
            adopt: self.adopt,
            prune: self.prune,
            no_markers: self.no_markers,
            removed: Vec::new(),
        };
        let shown = shown(&self.policy);
        let before = file::read(&self.policy)?;
        let merged =
            policy_file::decode(&before).and_then(|text| policy_file::merge(text, &request));
        let merged = merged.map_err(|error| file::invalid(&shown, &error))?;
        for note in &merged.notes {
            let line = note.line;
            print_error(format_args!("note: {shown}:{line}: {}", note.message));
        }
        let text = std::str::from_utf8(&before).context("the policy is text")?;
        if self.check {
            return check(&shown, text, &merged.text);
        }
        match &self.output {
            Some(output) if !is_standard(output) => file::replace(output, &merged.text, None)?,
            Some(_) => print(&merged.text)?,
            None if is_standard(&self.policy) => print(&merged.text)?,
            None if merged.text == text => {
                print_error(format_args!("{shown} is up to date"));
            }
            None => {
                file::replace(&self.policy, &merged.text, Some(&before))?;
                print_error(format_args!("{shown} is merged"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the difference.
fn check(shown: &str, before: &str, after: &str) -> anyhow::Result<ExitCode> {
    if before == after {
        print_error(format_args!("{shown} is up to date"));
        return Ok(ExitCode::SUCCESS);
    }
    print(&policy_file::unified(shown, before, after))?;
    print_error(format_args!(
        "{shown} is not up to date: run peerrelay grants merge without --check"
    ));
    Ok(ExitCode::from(DIFFERS))
}

fn cluster(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("a cluster name has letters, digits, dots, dashes and underscores".to_owned()),
    }
}

#[cfg(test)]
mod tests;
