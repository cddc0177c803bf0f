//! Review of PeerRelays against a policy file, with the observations of their relays.

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};

use super::{
    ClientUse, Finding, FindingKind, RelayGrant, ReviewRequest, ReviewedRegion, rules, warnings,
};

const SECONDS_OF_DAY: i64 = 86_400;

/// Adds the findings about PeerRelays, and those about `grants` of a policy file that they lack.
pub(super) fn review(
    grants: Option<&[RelayGrant<'_>]>,
    regions: &[ReviewedRegion],
    request: &ReviewRequest,
    findings: &mut Vec<Finding>,
) {
    let mut add = |kind, message| {
        findings.push(Finding {
            line: None,
            kind,
            message,
        });
    };
    for warning in warnings(regions) {
        add(FindingKind::WideRegion, warning);
    }
    for region in regions {
        if let Some(grants) = grants {
            review_grants(grants, region, &mut add);
        }
        review_tag(region, &mut add);
        review_clients(region, request, &mut add);
    }
    for relay in &request.over_quota {
        add(FindingKind::OverQuota, relay.clone());
    }
}

/// Reviews the grant of a region.
fn review_grants(
    grants: &[RelayGrant<'_>],
    region: &ReviewedRegion,
    add: &mut impl FnMut(FindingKind, String),
) {
    let (origin, tag) = (&region.grant.origin, &region.grant.tag);
    let sources = region.grant.grant().src;
    let missing = sources
        .iter()
        .filter(|client| !rules::is_granted(grants, tag, client));
    let missing: Vec<_> = missing.map(String::as_str).collect();
    if !missing.is_empty() {
        add(
            FindingKind::MissingGrant,
            format!(
                "{origin}: no grant lets {} use {tag}: run peerrelay grants merge",
                missing.join(", ")
            ),
        );
    }
}

/// Reviews the tag of a region.
fn review_tag(region: &ReviewedRegion, add: &mut impl FnMut(FindingKind, String)) {
    let (origin, tag) = (&region.grant.origin, &region.grant.tag);
    if region.tag_on_others {
        add(
            FindingKind::TagOnOtherDevices,
            format!(
                "{origin}: devices that are not relays have {tag}, and clients try them as \
                 relays: take the tag from them"
            ),
        );
    }
}

/// Reviews the use of a region by its clients.
fn review_clients(
    region: &ReviewedRegion,
    request: &ReviewRequest,
    add: &mut impl FnMut(FindingKind, String),
) {
    let origin = &region.grant.origin;
    let mut devices = region.clients.iter().map(|client| client.devices);
    if !region.clients.is_empty() && devices.all(|devices| devices == Some(0)) {
        add(
            FindingKind::RegionWithoutClients,
            format!("{origin}: the tailnet has no device that may use its relays"),
        );
        return;
    }
    for client in &region.clients {
        if let Some(message) = unused(client, request) {
            add(FindingKind::UnusedClient, format!("{origin}: {message}"));
        }
    }
}

/// Describes a client that has not used relays lately.
fn unused(client: &ClientUse, request: &ReviewRequest) -> Option<String> {
    let limit = i64::from(request.unused_days) * SECONDS_OF_DAY;
    let is_old = |time: Timestamp| request.now.as_second() - time.as_second() > limit;
    let name = &client.client;
    match (client.last_asked, client.counted_since) {
        (Some(last), _) if is_old(last) => Some(format!(
            "no device of {name} has used relays since {}: remove it from clients if it is not \
             needed",
            day(last)
        )),
        (None, Some(since)) if is_old(since) => Some(format!(
            "no device of {name} has used relays in the time that is recorded, since {}: remove \
             it from clients if it is not needed",
            day(since)
        )),
        _ => None,
    }
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).date().to_string()
}
