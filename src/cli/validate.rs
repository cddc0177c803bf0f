//! Subcommand `validate`: checks of PeerRelays and TailnetCredentials in files.

use anyhow::ensure;
use clap::Args;
use serde::Serialize;

use super::{
    manifests::{self, EXIT_CODES, Files, Finding, Judged, counted},
    output::{Format, print},
};
use crate::crd::admission::Kind;

#[derive(Args)]
#[command(
    after_help = format!(
        "Example: check a file before it is committed\n  peerrelay validate -f relay.yaml\n\nThe \
        command uses the schemas and the rules of the definitions (peerrelay crd). The API server \
        accepts a file that is valid here, and the operator can use it. A PeerRelay that refers to a \
        TailnetCredential is compared with it if the files have it. Only the cluster knows \
        whether nodes match, a port is free, or a Secret exists. {EXIT_CODES}"
    )
)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    files: Files,
    /// Output format: text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    valid: bool,
    peer_relays: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tailnet_credentials: Vec<CredentialEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    file: &'a str,
    line: u64,
    namespace: &'a str,
    name: &'a str,
    valid: bool,
    problems: &'a [Finding],
}

#[derive(Serialize)]
struct CredentialEntry<'a> {
    file: &'a str,
    line: u64,
    name: &'a str,
    valid: bool,
    problems: &'a [Finding],
}

impl ValidateArgs {
    /// Prints the result for every object.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let judged = self.files.judge()?;
        match self.output {
            Format::Json => {
                let report = serde_json::to_string_pretty(&report(&judged))?;
                print(&format!("{report}\n"))?;
            }
            Format::Text => {
                manifests::report(&judged);
                for judged in judged.iter().filter(|judged| judged.findings.is_empty()) {
                    print(&format!("{}: {} is valid\n", judged.file, judged.shown()))?;
                }
            }
        }
        let problems = manifests::problems(&judged);
        ensure!(problems == 0, "{}", counted(problems, "problem"));
        Ok(())
    }
}

fn report(judged: &[Judged]) -> Report<'_> {
    let of = |kind: Kind| judged.iter().filter(move |judged| judged.kind == kind);
    Report {
        valid: judged.iter().all(|judged| judged.findings.is_empty()),
        peer_relays: of(Kind::PeerRelay).map(entry).collect(),
        tailnet_credentials: of(Kind::TailnetCredential).map(credential).collect(),
    }
}

fn credential(judged: &Judged) -> CredentialEntry<'_> {
    CredentialEntry {
        file: &judged.file,
        line: judged.line,
        name: &judged.name,
        valid: judged.findings.is_empty(),
        problems: &judged.findings,
    }
}

fn entry(judged: &Judged) -> Entry<'_> {
    Entry {
        file: &judged.file,
        line: judged.line,
        namespace: &judged.namespace,
        name: &judged.name,
        valid: judged.findings.is_empty(),
        problems: &judged.findings,
    }
}
