//! Review of a policy file: rules about relays that are too wide, without effect, or not needed.

mod cluster;
mod rules;

use k8s_openapi::jiff::Timestamp;

use super::{
    document::{Child, Container, Document, Entry},
    error::PolicyFileError,
    marker::{self, Marker},
    merge::MergeRequest,
};
use crate::grants::{Policy, RegionGrant};

/// Number of days without a request after which a client counts as unused.
pub const UNUSED_DAYS: u32 = 30;

labels::label_enum! {
    /// Kind of a finding.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    pub enum FindingKind {
        /// A name is used twice in an object.
        DuplicateName = "duplicate-name",
        /// The policy has neither `acls` nor `grants`.
        AllowsEverything = "allows-everything",
        /// All devices may use relays.
        WildcardSource = "wildcard-source",
        /// All devices are relays.
        WildcardDestination = "wildcard-destination",
        /// The destination of a relay grant is not a tag.
        DestinationNotTag = "destination-not-tag",
        /// A grant has no sources or no destinations.
        EmptyGrant = "empty-grant",
        /// A policy contains the capability that only the control server may add.
        RelayTarget = "relay-target",
        /// A relay grant contains `via`.
        Via = "via",
        /// The tag of relays has no owner.
        TagWithoutOwner = "tag-without-owner",
        /// Everybody may give the tag of relays to a device.
        TagForEveryone = "tag-for-everyone",
        /// Devices that are not relays have the tag of relays.
        TagOnOtherDevices = "tag-on-other-devices",
        /// No PeerRelay has the tag of a relay grant.
        UnneededGrant = "unneeded-grant",
        /// A grant contains clients that no region names.
        UnneededClient = "unneeded-client",
        /// Clients of a region have no grant.
        MissingGrant = "missing-grant",
        /// Clients may not use relays by an attribute.
        RelaysDisabled = "relays-disabled",
        /// No device of a region's clients is in the tailnet.
        RegionWithoutClients = "region-without-clients",
        /// No device of a client has used relays lately.
        UnusedClient = "unused-client",
        /// There are more relays than allowed.
        OverQuota = "over-quota",
        /// A PeerRelay allows more than it should.
        WideRegion = "wide-region",
    }
}

/// Finding of a review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line in the policy file. A finding about a PeerRelay has none.
    pub line: Option<usize>,
    /// Kind of the finding.
    pub kind: FindingKind,
    /// Description with the fix.
    pub message: String,
}

/// Input of a review, except for the policy file.
#[derive(Debug, Clone)]
pub struct ReviewRequest {
    /// All regions of all PeerRelays of the tailnet. If they are unknown, the file is reviewed
    /// alone.
    pub regions: Option<Vec<ReviewedRegion>>,
    /// Descriptions of PeerRelays with more relays than allowed.
    pub over_quota: Vec<String>,
    /// Time of the review.
    pub now: Timestamp,
    /// Number of days after which a client counts as unused.
    pub unused_days: u32,
}

/// Region with the observations of its relays, if there are any.
#[derive(Debug, Clone)]
pub struct ReviewedRegion {
    /// Grant that the region needs.
    pub grant: RegionGrant,
    /// True if relays see their tag on devices that are not relays.
    pub tag_on_others: bool,
    /// Use of the entries of `clients`.
    pub clients: Vec<ClientUse>,
}

impl ReviewedRegion {
    /// Creates a region without observations.
    pub fn new(grant: &RegionGrant) -> Self {
        Self {
            grant: grant.clone(),
            tag_on_others: false,
            clients: Vec::new(),
        }
    }
}

/// Use of an entry of `clients`.
#[derive(Debug, Clone)]
pub struct ClientUse {
    /// Entry of `clients`.
    pub client: String,
    /// Number of devices, if relays can resolve the entry.
    pub devices: Option<i64>,
    /// Time since which relays count requests.
    pub counted_since: Option<Timestamp>,
    /// Time of the last request.
    pub last_asked: Option<Timestamp>,
}

/// Reviews a policy file. The findings are in the order of the file; findings about PeerRelays
/// follow.
///
/// # Errors
/// The text is not a policy file.
pub fn review(text: &str, request: &ReviewRequest) -> Result<Vec<Finding>, PolicyFileError> {
    let document = Document::parse(text)?;
    let mut findings = Vec::new();
    if let Some(error) = document.duplicate() {
        findings.push(Finding {
            line: Some(error.line),
            kind: FindingKind::DuplicateName,
            message: error.fault.to_string(),
        });
    }
    let grants: Vec<_> = relay_grants(&document).collect();
    rules::review(
        &document,
        &grants,
        request.regions.as_deref(),
        &mut findings,
    );
    findings.sort_by_key(|finding| finding.line);
    if let Some(regions) = &request.regions {
        cluster::review(Some(&grants), regions, request, &mut findings);
    }
    Ok(findings)
}

/// Reviews the grants of a policy file that concern the relays of `request`: those of their tags,
/// and those without a tag as destination. Entries that another PeerRelay has generated are left
/// out. The findings are those about rules, in the order of the file.
///
/// # Errors
/// The text is not a policy file.
pub fn review_entries(text: &str, request: &MergeRequest) -> Result<Vec<Finding>, PolicyFileError> {
    let document = Document::parse(text)?;
    let regions: Vec<_> = request.regions.iter().map(ReviewedRegion::new).collect();
    let concerns = |grant: &RelayGrant<'_>| {
        let is_own = |dst: &&str| regions.iter().any(|region| region.grant.tag == **dst);
        let is_generated = grant.marker.as_ref().is_some_and(|marker| {
            let mut own = request.markers();
            own.all(|own| own.peer_relay() != marker.peer_relay())
        });
        let mut others = grant.dst.iter().filter(|dst| !dst.starts_with("tag:"));
        !is_generated && (grant.dst.iter().any(is_own) || others.next().is_some())
    };
    let grants: Vec<_> = relay_grants(&document).filter(concerns).collect();
    let mut findings = Vec::new();
    rules::review(&document, &grants, Some(&regions), &mut findings);
    findings.retain(|finding| {
        // A grant may have other tags too, and nothing is known about their relays.
        !matches!(
            finding.kind,
            FindingKind::AllowsEverything | FindingKind::UnneededGrant
        )
    });
    findings.sort_by_key(|finding| finding.line);
    Ok(findings)
}

/// Reviews PeerRelays by what their relays observe, without a policy file.
pub fn review_observations(regions: &[ReviewedRegion], now: Timestamp) -> Vec<Finding> {
    let request = ReviewRequest {
        regions: None,
        over_quota: Vec::new(),
        now,
        unused_days: UNUSED_DAYS,
    };
    let mut findings = Vec::new();
    cluster::review(None, regions, &request, &mut findings);
    findings
}

/// Relay grant in a policy file.
struct RelayGrant<'d> {
    line: usize,
    src: Vec<&'d str>,
    dst: Vec<&'d str>,
    rule: &'d Container,
    /// Comment above the grant which says that it is generated.
    marker: Option<Marker>,
}

/// Returns the grants that contain one of the relay capabilities.
fn relay_grants(document: &Document) -> impl Iterator<Item = RelayGrant<'_>> {
    let grants = document.root.member("grants").and_then(Entry::array);
    grants.into_iter().flat_map(|grants| {
        let children = grants.children.iter().enumerate();
        children.filter_map(|(at, child)| match child {
            Child::Entry(entry) => relay_grant(document, grants, at, entry),
            _ => None,
        })
    })
}

fn relay_grant<'d>(
    document: &'d Document,
    grants: &Container,
    at: usize,
    entry: &'d Entry,
) -> Option<RelayGrant<'d>> {
    let rule = entry.object()?;
    let app = rule.member("app")?.object()?;
    let mut names = app.names();
    if !names.any(|name| name.starts_with(crate::grants::CAPABILITY)) {
        return None;
    }
    let dst = texts(rule.member("dst"));
    let marker = marker::above(document, grants, at).map(|(_, marker)| marker);
    Some(RelayGrant {
        line: document.line(entry.range.start),
        src: texts(rule.member("src")),
        // A marker counts only if the entry has its tag.
        marker: marker.filter(|marker| dst.contains(&&*marker.tag)),
        dst,
        rule,
    })
}

/// Returns the texts of a list. Other elements are left out.
fn texts(member: Option<&Entry>) -> Vec<&str> {
    let list = member.and_then(Entry::array);
    let entries = list.into_iter().flat_map(Container::entries);
    entries.filter_map(Entry::text).collect()
}

/// Returns the warnings about the PeerRelays themselves.
fn warnings(regions: &[ReviewedRegion]) -> Vec<String> {
    let grants = regions.iter().map(|region| region.grant.clone());
    Policy::new(grants.collect()).warnings()
}

#[cfg(test)]
mod tests;
