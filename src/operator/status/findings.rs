//! Findings of the review of grants for the condition `GrantsInForce`: those that relays observe, and
//! those about the policy of the tailnet, if the operator reads it. Pure.

use k8s_openapi::jiff::Timestamp;

use super::Pass;
use crate::{
    crd::{
        grants::{ClientStatus, GrantState, PolicyFinding},
        peer_relay::RegionStatus,
    },
    grants::policy_file::{self, ClientUse, Finding, FindingKind, ReviewedRegion},
    operator::validate::ValidRegion,
};

/// Returns a region for the review, with the observations in its status.
pub fn reviewed(region: &ValidRegion, status: Option<&RegionStatus>) -> ReviewedRegion {
    let client = |client: &ClientStatus| ClientUse {
        client: client.client.clone(),
        devices: client.devices,
        counted_since: client.counted_since.as_ref().map(|time| time.0),
        last_asked: client.last_asked.as_ref().map(|time| time.0),
    };
    let clients = status.iter().flat_map(|status| &status.clients);
    let is_client = |client: &&ClientStatus| {
        let mut clients = region.grant.clients.iter();
        clients.any(|selector| selector.text() == client.client)
    };
    ReviewedRegion {
        tag_on_others: status.is_some_and(|status| status.grant == GrantState::TagShared),
        // The status may be older than the spec.
        clients: clients.filter(is_client).map(client).collect(),
        ..ReviewedRegion::new(&region.grant)
    }
}

/// Sentences for the findings about the policy and the regions, those about the policy first.
pub(super) fn findings(pass: Pass<'_>, regions: &[RegionStatus], now: Timestamp) -> Vec<String> {
    let of_policy = pass.plan.policy.status.iter();
    let of_policy = of_policy.flat_map(|status| &status.findings);
    let reviewed = pass.spec.regions.iter().map(|region| {
        let status = regions.iter().find(|status| status.name == region.name);
        reviewed(region, status)
    });
    let reviewed: Vec<_> = reviewed.collect();
    let observed = policy_file::review_observations(&reviewed, now);
    let observed = observed.iter().filter(|finding| !is_a_state(finding));
    let observed =
        observed.map(|finding| format!("{}: {}", finding.kind.as_str(), finding.message));
    of_policy.map(sentence).chain(observed).collect()
}

/// Returns whether the state of a region's grant says the same.
const fn is_a_state(finding: &Finding) -> bool {
    matches!(
        finding.kind,
        FindingKind::TagOnOtherDevices | FindingKind::RegionWithoutClients
    )
}

fn sentence(finding: &PolicyFinding) -> String {
    let PolicyFinding {
        line,
        kind,
        message,
    } = finding;
    match line {
        Some(line) => format!("policy line {line}: {kind}: {message}"),
        None => format!("policy: {kind}: {message}"),
    }
}

#[cfg(test)]
mod tests;
