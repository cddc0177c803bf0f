//! Subcommand `grants review`: findings about a policy file and the PeerRelays that it is for.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use url::Url;

use super::{
    file,
    source::{Found, Source},
};
use crate::{
    cli::{
        input::shown,
        manifests::counted,
        output::{Format, print, print_error},
    },
    crd::{control_server::ControlServer, credential::CredentialIdentity},
    grants::policy_file::{self, Finding, ReviewRequest, ReviewedRegion, UNUSED_DAYS},
    operator::{objects::Owner, status::findings::reviewed},
};

/// Exit code if there are findings.
const FINDINGS: u8 = 3;

#[derive(Args)]
#[command(after_help = "\
Examples:
  peerrelay grants review policy.hujson
      review the rules about relays in the policy file
  peerrelay grants review policy.hujson -f deploy/
      also compare them with the PeerRelays in files
  peerrelay grants review policy.hujson --context
      also use what relays of the current cluster report: clients that nobody uses, tags on other
      devices, and relays over the quota

Without PeerRelays, only the file is reviewed. With -f or --context, give all PeerRelays of the \
tailnet: a grant for others is reported as not needed.

Exit codes: 0 if there are no findings; 1 if the policy file or a PeerRelay is invalid or cannot be \
read; 2 for incorrect usage; 3 if there are findings; 141 if standard output is closed.")]
pub(super) struct ReviewArgs {
    /// Policy file, as HuJSON or JSON, or '-' for standard input
    #[arg(value_name = "POLICY")]
    policy: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Number of days without a request after which a client counts as unused
    #[arg(long, value_name = "DAYS", default_value_t = UNUSED_DAYS)]
    unused_days: u32,
    /// Output format: text for people, or JSON for programs
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Serialize)]
struct Entry<'a> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    kind: &'static str,
    message: &'a str,
}

impl ReviewArgs {
    /// Prints the findings.
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        self.source.check_input_of(&self.policy)?;
        let relays = match self.source.is_given() {
            true => Some(self.source.peer_relays()?),
            false => None,
        };
        let relays = relays.as_deref();
        let request = ReviewRequest {
            regions: relays.map(|relays| relays.iter().flat_map(regions).collect()),
            over_quota: relays.map(over_quota).unwrap_or_default(),
            now: Timestamp::now(),
            unused_days: self.unused_days,
        };
        let shown = shown(&self.policy);
        let bytes = file::read(&self.policy)?;
        let reviewed =
            policy_file::decode(&bytes).and_then(|text| policy_file::review(text, &request));
        let findings = reviewed.map_err(|error| file::invalid(&shown, &error))?;
        self.print(&shown, &findings)?;
        Ok(match findings.len() {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::from(FINDINGS),
        })
    }

    fn print(&self, shown: &str, findings: &[Finding]) -> anyhow::Result<()> {
        let entries = findings.iter().map(|finding| Entry {
            file: shown,
            line: finding.line,
            kind: finding.kind.as_str(),
            message: &finding.message,
        });
        if self.output == Format::Json {
            let entries: Vec<_> = entries.collect();
            let text = serde_json::to_string_pretty(&entries)?;
            return Ok(print(&format!("{text}\n"))?);
        }
        let line = |entry: Entry<'_>| match entry.line {
            Some(line) => format!("{shown}:{line}: {}: {}\n", entry.kind, entry.message),
            None => format!("{}: {}\n", entry.kind, entry.message),
        };
        print(&entries.map(line).collect::<String>())?;
        print_error(counted(findings.len(), "finding"));
        Ok(())
    }
}

/// Returns the regions of a PeerRelay with the observations in its status.
fn regions(relay: &Found) -> impl Iterator<Item = ReviewedRegion> {
    relay.spec.regions.iter().map(|region| {
        let statuses = relay.status.iter().flat_map(|status| &status.regions);
        let status = statuses.into_iter().find(|s| s.name == region.name);
        reviewed(region, status)
    })
}

/// Describes the PeerRelays that have, or may have, more relays than their tailnet allows.
fn over_quota(relays: &[Found]) -> Vec<String> {
    let mut found = Vec::new();
    let mut by_tailnet: BTreeMap<_, Vec<(&Owner, u16)>> = BTreeMap::new();
    for relay in relays {
        let owner = &relay.spec.owner;
        let name = format!("PeerRelay {}/{}", owner.namespace, owner.name);
        let conditions = relay.status.iter().flat_map(|status| &status.conditions);
        let mut quotas = conditions.filter(|c| c.type_ == "WithinQuota" && c.status == "False");
        if let Some(quota) = quotas.next() {
            found.push(format!("{name}: {}", quota.message));
            continue;
        }
        let Some(most) = relay.spec.max_relays else {
            continue;
        };
        let regions = relay.spec.regions.len();
        if regions > usize::from(most) {
            found.push(format!(
                "{name}: {regions} regions share at most {most} relays, so some have none: raise \
                 spec.maxRelays if your plan allows more"
            ));
        }
        let tailnet = &relay.spec.tailnet;
        let url = tailnet.control_url.as_ref().map(Url::as_str);
        let key = (ControlServer::of(url), &tailnet.identity);
        by_tailnet.entry(key).or_default().push((owner, most));
    }
    for ((_, credential), relays) in by_tailnet {
        let total: u32 = relays.iter().map(|(_, most)| u32::from(*most)).sum();
        let most = relays.iter().map(|(_, most)| *most).max().unwrap_or(0);
        if total > u32::from(most) {
            let names = sharing(credential, relays.iter().map(|(owner, _)| *owner));
            found.push(format!(
                "the PeerRelays {names} share a tailnet and may have {total} relays together, but \
                 the greatest maxRelays is {most}: lower maxRelays of each"
            ));
        }
    }
    found
}

/// Names PeerRelays that have the same credential.
fn sharing<'a>(
    credential: &CredentialIdentity<'_>,
    owners: impl Iterator<Item = &'a Owner>,
) -> String {
    match &credential.namespace {
        Some(namespace) => {
            let names: Vec<_> = owners.map(|owner| &*owner.name).collect();
            format!("{} of namespace {namespace}", names.join(", "))
        }
        None => {
            let name = |owner: &Owner| format!("{}/{}", owner.namespace, owner.name);
            let names: Vec<_> = owners.map(name).collect();
            let shared = &credential.name;
            format!("{} with TailnetCredential {shared}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests;
