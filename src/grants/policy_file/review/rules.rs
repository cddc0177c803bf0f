//! Review of the rules of a policy file.

use std::collections::BTreeSet;

use super::{Finding, FindingKind, RelayGrant, ReviewedRegion, texts};
use crate::grants::{
    ALLOW_ALL, CAPABILITY, Selector,
    policy_file::document::{Container, Document, Entry},
};

/// Capability that the control server adds.
// `tailcfg.PeerCapabilityRelayTarget`.
const TARGET: &str = "tailscale.com/cap/relay-target";
/// Attribute of clients that use no relays.
// `tailcfg.NodeAttrDisableRelayClient`.
const DISABLED: &str = "disable-relay-client";
/// Owners that include every user of a tailnet.
const EVERY_USER: [&str; 3] = ["autogroup:member", "autogroup:members", "*"];

/// Adds the findings about the rules.
pub(super) fn review(
    document: &Document,
    grants: &[RelayGrant<'_>],
    regions: Option<&[ReviewedRegion]>,
    findings: &mut Vec<Finding>,
) {
    if !document.has("acls") && !document.has("grants") {
        findings.push(Finding {
            line: Some(document.line(document.root.range.start)),
            kind: FindingKind::AllowsEverything,
            message: format!(
                "the policy has neither acls nor grants and allows every connection: add the \
                 grant {ALLOW_ALL} if that is intended, because the first grant ends it"
            ),
        });
    }
    for grant in grants {
        review_form(grant, findings);
        review_lists(grant, findings);
        if let Some(regions) = regions {
            review_need(grant, regions, findings);
        }
    }
    review_tags(document, grants, findings);
    review_attributes(document, grants, findings);
}

/// Reviews members that have no effect.
fn review_form(grant: &RelayGrant<'_>, findings: &mut Vec<Finding>) {
    let mut add = finding(grant.line, findings);
    if let Some(app) = grant.rule.member("app").and_then(Entry::object)
        && app.names().any(|name| name == TARGET)
    {
        add(
            FindingKind::RelayTarget,
            format!(
                "remove {TARGET}: the control server adds it, and refuses a policy that has it"
            ),
        );
    }
    if grant.rule.member("via").is_some() {
        add(
            FindingKind::Via,
            "remove via: it selects routers for connections and does not apply to relays, and \
             control servers may ignore the whole grant"
                .to_owned(),
        );
    }
}

/// Reviews sources and destinations.
fn review_lists(grant: &RelayGrant<'_>, findings: &mut Vec<Finding>) {
    let mut add = finding(grant.line, findings);
    for (name, list) in [("src", &grant.src), ("dst", &grant.dst)] {
        if list.is_empty() {
            let message = format!("{name} is empty, so the grant has no effect: remove the grant");
            add(FindingKind::EmptyGrant, message);
        }
    }
    let is_everyone = |text: &&&str| Selector::parse(text).is_ok_and(|all| all.is_everyone());
    for client in grant.src.iter().filter(is_everyone) {
        add(
            FindingKind::WildcardSource,
            format!(
                "src {client:?} lets every device of the tailnet use these relays: name tags, \
                 groups or users instead"
            ),
        );
    }
    for relay in &grant.dst {
        if is_everyone(&relay) {
            add(
                FindingKind::WildcardDestination,
                format!(
                    "dst {relay:?} makes every device a relay that clients try, and each attempt \
                     takes up to 10 s: name the tag of the relays"
                ),
            );
        } else if !relay.starts_with("tag:") {
            add(
                FindingKind::DestinationNotTag,
                format!(
                    "dst {relay:?} is not a tag, so clients try every device that it selects as \
                     a relay: name a tag that only relays have"
                ),
            );
        }
    }
}

/// Reviews a grant against the PeerRelays.
fn review_need(grant: &RelayGrant<'_>, regions: &[ReviewedRegion], findings: &mut Vec<Finding>) {
    let mut add = finding(grant.line, findings);
    for tag in grant.dst.iter().filter(|dst| dst.starts_with("tag:")) {
        let own: Vec<_> = regions.iter().filter(|r| r.grant.tag == *tag).collect();
        if own.is_empty() {
            add(
                FindingKind::UnneededGrant,
                format!("no PeerRelay has the tag {tag}: remove the grant if its relays are gone"),
            );
            continue;
        }
        let sources = own.iter().flat_map(|region| region.grant.grant().src);
        let needed: BTreeSet<_> = sources.collect();
        let extra: Vec<_> = grant
            .src
            .iter()
            .filter(|src| !needed.contains(**src))
            .collect();
        for client in extra {
            add(
                FindingKind::UnneededClient,
                format!(
                    "src {client:?} may use the relays {tag}, and no region with this tag names it \
                     in clients: remove it, or add it to the PeerRelay"
                ),
            );
        }
    }
}

/// Reviews the owners of relay tags.
fn review_tags(document: &Document, grants: &[RelayGrant<'_>], findings: &mut Vec<Finding>) {
    let owners = document.root.member("tagOwners").and_then(Entry::object);
    let mut seen = BTreeSet::new();
    for grant in grants {
        for tag in grant.dst.iter().filter(|dst| dst.starts_with("tag:")) {
            if !seen.insert(*tag) {
                continue;
            }
            let mut entries = owners.into_iter().flat_map(Container::entries);
            let Some(entry) = entries.find(|entry| entry.name.as_deref() == Some(*tag)) else {
                finding(grant.line, findings)(
                    FindingKind::TagWithoutOwner,
                    format!(
                        "{tag} is not in tagOwners: no auth key can have it, and control servers \
                         refuse the policy; add it with an owner"
                    ),
                );
                continue;
            };
            let line = document.line(entry.range.start);
            let wide = texts(Some(entry))
                .into_iter()
                .find(|owner| EVERY_USER.contains(owner));
            if let Some(owner) = wide {
                finding(line, findings)(
                    FindingKind::TagForEveryone,
                    format!(
                        "{owner:?} may give {tag} to any device, and clients then try it as a \
                         relay: name administrators"
                    ),
                );
            }
        }
    }
}

/// Reviews attributes that keep clients from using relays.
fn review_attributes(document: &Document, grants: &[RelayGrant<'_>], findings: &mut Vec<Finding>) {
    let rules = document.root.member("nodeAttrs").and_then(Entry::array);
    for entry in rules.into_iter().flat_map(Container::entries) {
        let Some(rule) = entry.object() else {
            continue;
        };
        if !texts(rule.member("attr")).contains(&DISABLED) {
            continue;
        }
        let targets = texts(rule.member("target"));
        let sources: BTreeSet<_> = grants.iter().flat_map(|grant| &grant.src).collect();
        for target in targets
            .into_iter()
            .filter(|t| *t == "*" || sources.contains(t))
        {
            finding(document.line(entry.range.start), findings)(
                FindingKind::RelaysDisabled,
                format!(
                    "{DISABLED} keeps {target:?} from using relays, although a grant allows it: \
                     remove one of them"
                ),
            );
        }
    }
}

fn finding(line: usize, findings: &mut Vec<Finding>) -> impl FnMut(FindingKind, String) {
    move |kind, message| {
        findings.push(Finding {
            line: Some(line),
            kind,
            message,
        });
    }
}

/// Returns whether a relay grant allows all clients of a region to use its relays.
pub(super) fn is_granted(grants: &[RelayGrant<'_>], tag: &str, client: &str) -> bool {
    grants.iter().any(|grant| {
        let app = grant.rule.member("app").and_then(Entry::object);
        app.is_some_and(|app| app.names().any(|name| name == CAPABILITY))
            && (grant.dst.contains(&tag) || grant.dst.contains(&"*"))
            && (grant.src.contains(&client) || grant.src.contains(&"*"))
    })
}
