//! Condition `GrantsInForce`: the tailnet policy that relays report, compared with the policy that
//! the PeerRelay needs. Pure.

use super::condition::{ConditionUpdate, LONGEST_MESSAGE, cut, some};
use crate::{
    crd::{
        RelayNode,
        grants::{GrantReport, GrantState},
    },
    grants::{RegionGrant, Selector, first_grants_warning},
};

/// The policy allows exactly the clients of each region to use its relays.
pub(super) const EFFECTIVE: &str = "GrantsEffective";
/// The policy does not allow the clients to use the relays.
pub(super) const MISSING: &str = "GrantsMissing";
/// The policy allows other devices too.
pub(super) const TOO_BROAD: &str = "GrantsTooBroad";
/// The policy allows only some of the clients.
pub(super) const INCOMPLETE: &str = "GrantsIncomplete";
/// A device that is not a relay has a relay tag.
pub(super) const TAG_SHARED: &str = "TagOnOtherDevices";
/// No relay sees a device of a client.
pub(super) const UNSEEN: &str = "ClientsNotSeen";
/// No relay has reported its packet filter.
pub(super) const NOT_REPORTED: &str = "GrantsNotReported";

/// Maximum number of clients in a message.
const NAMED: usize = 5;

/// State of the grant of one region.
pub(super) struct RegionVerdict {
    pub(super) state: GrantState,
    sentence: String,
}

/// States with the status and reason of the condition, the worst first.
const STATES: [(GrantState, &str, &str); 7] = [
    (GrantState::Missing, "False", MISSING),
    (GrantState::TooBroad, "False", TOO_BROAD),
    (GrantState::Incomplete, "False", INCOMPLETE),
    (GrantState::TagShared, "False", TAG_SHARED),
    (GrantState::Unknown, "Unknown", NOT_REPORTED),
    (GrantState::Unseen, "Unknown", UNSEEN),
    (GrantState::Effective, "True", EFFECTIVE),
];

/// Evaluates the reports of a region's relays. The worst report counts, because clients try all
/// relays.
pub(super) fn judge<'a>(
    grant: &RegionGrant,
    nodes: impl Iterator<Item = &'a RelayNode>,
) -> RegionVerdict {
    let reports = nodes.filter_map(|node| node.status.as_ref()?.grant.as_ref());
    let verdicts = reports.map(|report| judge_one(grant, report));
    let place = |verdict: &RegionVerdict| {
        let mut states = STATES.iter();
        states.position(|(state, ..)| *state == verdict.state)
    };
    verdicts.min_by_key(place).unwrap_or_else(|| RegionVerdict {
        state: GrantState::Unknown,
        sentence: format!(
            "{}: no relay has reported its packet filter yet",
            grant.origin
        ),
    })
}

fn judge_one(grant: &RegionGrant, report: &GrantReport) -> RegionVerdict {
    let (origin, tag, line) = (&grant.origin, &grant.tag, grant.grant().line());
    let verdict = |state, sentence: String| RegionVerdict {
        state,
        sentence: format!("{origin}: {sentence}"),
    };
    if report.rules == 0 {
        let sentence = format!(
            "the packet filter has no grant for the relays; add to grants of the tailnet policy: \
             {line} (caution: {})",
            first_grants_warning()
        );
        return verdict(GrantState::Missing, sentence);
    }
    if let Some(who) = too_many(grant, report) {
        let sentence = format!(
            "{who} may use the relays too; let this be the only grant of \
             tailscale.com/cap/relay for {tag}: {line}"
        );
        return verdict(GrantState::TooBroad, sentence);
    }
    let clients = Judged::new(grant, report);
    if !clients.refused.is_empty() {
        let sentence = format!(
            "devices of {} are in the tailnet and none of them may use the relays; the grant must \
             be: {line}",
            some(&clients.refused, NAMED, "")
        );
        return verdict(GrantState::Incomplete, sentence);
    }
    // With selfRelay, other devices have the tag on purpose.
    if report.tagged_others > 0 && !grant.self_relay {
        let sentence = format!(
            "{} devices have {tag} and are no relays, so clients ask them for sessions in vain; \
             take the tag from them, or give the region a tag that only its relays have",
            report.tagged_others
        );
        return verdict(GrantState::TagShared, sentence);
    }
    if !clients.unreported.is_empty() {
        let sentence = format!(
            "a relay has not reported yet whether {} may use it",
            some(&clients.unreported, NAMED, "")
        );
        return verdict(GrantState::Unknown, sentence);
    }
    if !clients.unseen.is_empty() {
        let sentence = format!(
            "relays see no device of {}; either the tailnet has none, or the policy has no grant \
             for it: {line}",
            some(&clients.unseen, NAMED, "")
        );
        return verdict(GrantState::Unseen, sentence);
    }
    effective(&clients, report, verdict)
}

/// Returns the state of a grant without a fault.
fn effective(
    clients: &Judged<'_>,
    report: &GrantReport,
    verdict: impl Fn(GrantState, String) -> RegionVerdict,
) -> RegionVerdict {
    let peers: i64 = report.sources.iter().map(|source| source.peers).sum();
    let more = if report.more_sources { "at least " } else { "" };
    let mut sentence = format!("{more}{peers} devices may use the relays");
    if !clients.opaque.is_empty() {
        let names = some(&clients.opaque, NAMED, "");
        sentence += &format!("; relays cannot tell whether devices of {names} are among them");
    }
    let nobody = peers == 0 && clients.resolved == 0;
    let state = match nobody {
        true => GrantState::Unseen,
        false => GrantState::Effective,
    };
    verdict(state, sentence)
}

/// Clients of a region, grouped by the report of a relay.
#[derive(Default)]
struct Judged<'a> {
    /// Clients with a device that may use the relay.
    resolved: usize,
    /// Clients with devices in the network map, none of which may use the relay.
    refused: Vec<&'a str>,
    /// Clients without a device in the network map of the relay.
    unseen: Vec<&'a str>,
    /// Clients that the relay has not reported, for example while it applies a changed
    /// configuration.
    unreported: Vec<&'a str>,
    /// Clients whose devices relays cannot recognize.
    opaque: Vec<&'a str>,
}

impl<'a> Judged<'a> {
    fn new(grant: &'a RegionGrant, report: &GrantReport) -> Self {
        let mut judged = Self::default();
        for client in &grant.clients {
            judged.record(client, report);
        }
        judged
    }

    fn record(&mut self, client: &'a Selector, report: &GrantReport) {
        let text = client.text();
        if !client.is_resolvable() {
            return self.opaque.push(text);
        }
        let mut reports = report.clients.iter();
        let reported = reports.find(|reported| reported.client == text);
        match reported.and_then(|reported| reported.devices) {
            None => self.unreported.push(text),
            Some(devices) if devices.known == 0 => self.unseen.push(text),
            Some(devices) if devices.granted == 0 => self.refused.push(text),
            Some(_) => self.resolved += 1,
        }
    }
}

/// Returns the sources that may use the relays although they are not clients of the region. `None`
/// if there are none, or if this is unknown: reports do not contain devices that are named by
/// address or host alias.
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

/// The condition over all regions, with the findings of the review.
pub(super) fn condition(regions: &[RegionVerdict], findings: &[String]) -> ConditionUpdate {
    let of = |state| regions.iter().filter(move |region| region.state == state);
    let found = STATES
        .into_iter()
        .find(|(state, ..)| of(*state).next().is_some());
    let (state, status, reason) = found.unwrap_or((GrantState::Unknown, "Unknown", NOT_REPORTED));
    let mut sentences: Vec<_> = of(state).map(|region| &*region.sentence).collect();
    let review;
    if !findings.is_empty() {
        review = format!("review: {}", findings.join("; "));
        sentences.push(&review);
    }
    ConditionUpdate {
        kind: "GrantsInForce",
        status,
        reason: reason.to_owned(),
        message: cut(&sentences.join("; "), LONGEST_MESSAGE),
    }
}

#[cfg(test)]
mod tests;
