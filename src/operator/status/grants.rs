//! Whether the tailnet policy says what the PeerRelay needs, from what its relays read of it. Pure.

use super::Verdict;
use crate::{
    crd::{
        RelayNode,
        grants::{GrantReport, GrantState},
    },
    grants::{RegionGrant, first_grants_warning},
};

/// The policy lets each region's clients use its relays, and nobody else.
pub(super) const EFFECTIVE: &str = "GrantsEffective";
/// It does not let them.
pub(super) const MISSING: &str = "GrantsMissing";
/// It lets others too.
pub(super) const TOO_BROAD: &str = "GrantsTooBroad";
/// No relay has reported its packet filter.
pub(super) const NOT_REPORTED: &str = "GrantsNotReported";

/// What is said of one region.
pub(super) struct RegionVerdict {
    pub(super) state: GrantState,
    sentence: String,
}

/// Judges a region by the reports of its relays; the worst of them counts, as clients try all.
pub(super) fn judge<'a>(
    grant: &RegionGrant,
    nodes: impl Iterator<Item = &'a RelayNode>,
) -> RegionVerdict {
    let reports = nodes.filter_map(|node| node.status.as_ref()?.grant.as_ref());
    let verdicts = reports.map(|report| judge_one(grant, report));
    let weight = |verdict: &RegionVerdict| match verdict.state {
        GrantState::Missing => 3,
        GrantState::TooBroad => 2,
        GrantState::Effective => 1,
        GrantState::Unknown => 0,
    };
    verdicts
        .max_by_key(weight)
        .unwrap_or_else(|| RegionVerdict {
            state: GrantState::Unknown,
            sentence: format!(
                "{}: no relay has reported its packet filter yet",
                grant.origin
            ),
        })
}

fn judge_one(grant: &RegionGrant, report: &GrantReport) -> RegionVerdict {
    let (origin, line) = (&grant.origin, grant.grant().line());
    let verdict = |state, sentence| RegionVerdict { state, sentence };
    if report.rules == 0 {
        let sentence = format!(
            "{origin}: the packet filter has no grant for the relays; add to grants of the tailnet \
             policy: {line} (caution: {})",
            first_grants_warning()
        );
        return verdict(GrantState::Missing, sentence);
    }
    if let Some(who) = too_many(grant, report) {
        let sentence = format!(
            "{origin}: {who} may use the relays too; let this be the only grant of \
             tailscale.com/cap/relay for {}: {line}",
            grant.tag
        );
        return verdict(GrantState::TooBroad, sentence);
    }
    let peers: i64 = report.sources.iter().map(|source| source.peers).sum();
    let sentence = format!("{origin}: {peers} devices may use the relays");
    verdict(GrantState::Effective, sentence)
}

/// Who may use the relays although the region names others; `None` if nobody, or if it cannot be
/// told: addresses and host aliases name devices that reports do not.
fn too_many(grant: &RegionGrant, report: &GrantReport) -> Option<String> {
    let clients = &grant.clients;
    if clients.iter().any(|client| client.is_everyone()) {
        return None;
    }
    if report.everyone {
        return Some("every device of the tailnet".to_owned());
    }
    if clients.iter().any(|client| client.is_opaque()) {
        return None;
    }
    let users = clients.iter().any(|client| client.is_of_users());
    let is_meant = |tag: &String| {
        let own = grant.self_relay && *tag == grant.tag;
        own || clients.iter().any(|c| c.is_tag() && c.text() == tag)
    };
    let stranger = report
        .sources
        .iter()
        .find(|source| match source.tags.is_empty() {
            true => !users,
            false => !source.tags.iter().any(is_meant),
        })?;
    let peers = stranger.peers;
    Some(match stranger.tags.is_empty() {
        true => format!("{peers} devices of users"),
        false => format!("{peers} devices with {}", stranger.tags.join(" and ")),
    })
}

/// The condition over all regions.
pub(super) fn condition(regions: &[RegionVerdict]) -> Verdict {
    let of = |state| regions.iter().filter(move |region| region.state == state);
    let found = [
        (GrantState::Missing, "False", MISSING),
        (GrantState::TooBroad, "False", TOO_BROAD),
        (GrantState::Unknown, "Unknown", NOT_REPORTED),
        (GrantState::Effective, "True", EFFECTIVE),
    ]
    .into_iter()
    .find(|(state, ..)| of(*state).next().is_some());
    let (state, status, reason) = found.unwrap_or((GrantState::Unknown, "Unknown", NOT_REPORTED));
    let sentences: Vec<_> = of(state).map(|region| &*region.sentence).collect();
    Verdict {
        kind: "GrantsInForce",
        status,
        reason: reason.to_owned(),
        message: super::cut(&sentences.join("; "), super::LONGEST_MESSAGE),
    }
}

#[cfg(test)]
mod tests;
