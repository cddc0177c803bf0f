#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;
use crate::grants::Selector;

const NOW: &str = "2026-06-30T00:00:00Z";

#[test]
fn rules_that_are_too_wide_or_without_effect_are_found_with_their_lines() {
    let policy = r#"{
  "tagOwners": {
    "tag:relay-eu": ["autogroup:member"],
    "tag:relay-us": ["autogroup:admin"],
  },
  "nodeAttrs": [
    {"target": ["tag:office"], "attr": ["disable-relay-client"]},
  ],
  "grants": [
    {"src": ["tag:a"], "dst": ["tag:b"], "ip": ["*"], "via": ["tag:router"]},
    {"src": ["*"], "dst": ["tag:relay-eu"], "app": {"tailscale.com/cap/relay": []}},
    {"src": ["tag:office"], "dst": ["*"], "app": {"tailscale.com/cap/relay": [{}]}},
    {"src": [], "dst": ["100.64.0.1"], "app": {"tailscale.com/cap/relay": []}},
    {"src": ["tag:a"], "dst": ["tag:relay-us"], "via": ["tag:router"], "app": {
      "tailscale.com/cap/relay": [], "tailscale.com/cap/relay-target": []}},
    {"src": ["tag:a"], "dst": ["tag:none"], "app": {"tailscale.com/cap/relay": []}},
  ],
}
"#;
    let found = kinds(policy, &alone());
    let wanted = [
        (3, FindingKind::TagForEveryone),
        (7, FindingKind::RelaysDisabled),
        (11, FindingKind::WildcardSource),
        (12, FindingKind::WildcardDestination),
        (13, FindingKind::EmptyGrant),
        (13, FindingKind::DestinationNotTag),
        (14, FindingKind::RelayTarget),
        (14, FindingKind::Via),
        (16, FindingKind::TagWithoutOwner),
    ];
    assert_eq!(found, wanted.map(|(line, kind)| (Some(line), kind)));
}

#[test]
fn a_merged_policy_has_no_findings() {
    let region = region("eu", &["tag:office", "group:eng"]);
    let merge = super::super::MergeRequest {
        regions: vec![region.grant.clone()],
        ..Default::default()
    };
    let merged = super::super::merge("{\"acls\": []}\n", &merge)
        .unwrap()
        .text;
    assert_eq!(kinds(&merged, &with(vec![region])), []);
}

#[test]
fn grants_and_peer_relays_are_compared() {
    let policy = r#"{"tagOwners": {"tag:relay-eu": ["group:ops"], "tag:relay-old": ["group:ops"]}, "grants": [
  {"src": ["tag:office", "tag:gone"], "dst": ["tag:relay-eu"], "app": {"tailscale.com/cap/relay": []}},
  {"src": ["tag:office"], "dst": ["tag:relay-old"], "app": {"tailscale.com/cap/relay": []}},
]}
"#;
    let regions = vec![
        region("eu", &["tag:office", "tag:new"]),
        region("us", &["*"]),
    ];
    let found = review(policy, &with(regions)).unwrap();
    let wanted = [
        (
            Some(2),
            FindingKind::UnneededClient,
            "\"tag:gone\" may use the relays tag:relay-eu",
        ),
        (
            Some(3),
            FindingKind::UnneededGrant,
            "no PeerRelay has the tag tag:relay-old",
        ),
        (
            None,
            FindingKind::WideRegion,
            "the client '*' allows every device",
        ),
        (
            None,
            FindingKind::MissingGrant,
            "region eu of relays/edge: no grant lets tag:new use",
        ),
        (
            None,
            FindingKind::MissingGrant,
            "region us of relays/edge: no grant lets * use",
        ),
    ];
    assert_eq!(found.len(), wanted.len(), "{found:?}");
    for (finding, (line, kind, words)) in found.iter().zip(wanted) {
        assert_eq!((finding.line, finding.kind), (line, kind), "{finding:?}");
        assert!(finding.message.contains(words), "{finding:?}");
    }
}

#[test]
fn the_use_of_relays_is_judged_by_what_they_report() {
    let mut eu = region("eu", &["tag:a", "tag:b", "tag:c", "group:d"]);
    eu.tag_on_others = true;
    eu.clients = vec![
        used(
            "tag:a",
            Some(1),
            "2026-01-01T00:00:00Z",
            Some("2026-06-29T00:00:00Z"),
        ),
        used(
            "tag:b",
            Some(1),
            "2026-01-01T00:00:00Z",
            Some("2026-02-01T10:00:00Z"),
        ),
        used("tag:c", Some(1), "2026-01-01T00:00:00Z", None),
        used("group:d", None, "2026-06-29T00:00:00Z", None),
    ];
    let mut us = region("us", &["tag:a"]);
    us.clients = vec![used("tag:a", Some(0), "2026-01-01T00:00:00Z", None)];
    let merge = super::super::MergeRequest {
        regions: vec![eu.grant.clone(), us.grant.clone()],
        ..Default::default()
    };
    let merged = super::super::merge("{\"acls\": []}\n", &merge)
        .unwrap()
        .text;
    let mut request = with(vec![eu, us]);
    request.over_quota = vec!["relays/edge: 3 relays, at most 2 in total".into()];
    let found = review(&merged, &request).unwrap();
    let found: Vec<_> = found.iter().map(|f| (f.kind, &*f.message)).collect();
    assert!(
        found[1]
            .1
            .contains("tag:b has used relays since 2026-02-01"),
        "{found:?}"
    );
    assert!(
        found[2]
            .1
            .contains("tag:c has used relays in the time that is recorded"),
        "{found:?}"
    );
    let kinds: Vec<_> = found.into_iter().map(|(kind, _)| kind).collect();
    let wanted = [
        FindingKind::TagOnOtherDevices,
        FindingKind::UnusedClient,
        FindingKind::UnusedClient,
        FindingKind::RegionWithoutClients,
        FindingKind::OverQuota,
    ];
    assert_eq!(kinds, wanted);
}

#[test]
fn open_and_ambiguous_policies_are_found() {
    let open = kinds("{\n\"hosts\": {\"a\": 1, \"a\": 2}}", &alone());
    let wanted = [
        (Some(1), FindingKind::AllowsEverything),
        (Some(2), FindingKind::DuplicateName),
    ];
    assert_eq!(open, wanted);
    review("{", &alone()).unwrap_err();
}

#[test]
fn only_grants_for_the_own_relays_are_reviewed_for_a_peer_relay() {
    let policy = r#"{
  "tagOwners": {"tag:relay-eu": ["autogroup:member"], "tag:relay-us": ["*"]},
  "nodeAttrs": [{"target": ["tag:b"], "attr": ["disable-relay-client"]}],
  "grants": [
    {"src": ["tag:b"], "dst": ["tag:relay-us"], "app": {"tailscale.com/cap/relay": []}},
    {"src": ["tag:a"], "dst": ["tag:relay-eu", "tag:relay-us"], "app": {"tailscale.com/cap/relay": []}},
    // Managed by peerrelay grants merge: region eu of other/edge, tag:relay-eu
    {"src": ["*"], "dst": ["tag:relay-eu"], "app": {"tailscale.com/cap/relay": []}},
    {"src": ["tag:a"], "dst": ["*"], "app": {"tailscale.com/cap/relay": []}},
    // Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu
    {"src": ["tag:a", "tag:c"], "dst": ["tag:relay-eu"], "app": {"tailscale.com/cap/relay": []}},
  ],
}
"#;
    let request = MergeRequest {
        regions: vec![region("eu", &["tag:a"]).grant],
        ..MergeRequest::default()
    };
    let findings = review_entries(policy, &request).unwrap();
    let found: Vec<_> = findings.iter().map(|f| (f.line, f.kind)).collect();
    let wanted = [
        (2, FindingKind::TagForEveryone),
        (2, FindingKind::TagForEveryone),
        (9, FindingKind::WildcardDestination),
        (11, FindingKind::UnneededClient),
    ];
    assert_eq!(found, wanted.map(|(line, kind)| (Some(line), kind)));
    assert_eq!(review_entries("{}", &request).unwrap(), []);

    let elsewhere = MergeRequest {
        cluster: Some("west".into()),
        ..request
    };
    let of_cluster = policy.replace("relays/edge", "relays/edge in west");
    let found = review_entries(&of_cluster, &elsewhere).unwrap();
    assert_eq!(found, findings);
    assert_eq!(review_entries(policy, &elsewhere).unwrap().len(), 3);
}

#[test]
fn observations_are_reviewed_without_a_policy_file() {
    let mut eu = region("eu", &["*"]);
    eu.clients = vec![used("*", Some(1), "2026-01-01T00:00:00Z", None)];
    let found = review_observations(&[eu], NOW.parse().unwrap());
    let kinds: Vec<_> = found.into_iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::WideRegion, FindingKind::UnusedClient]);
}

fn kinds(policy: &str, request: &ReviewRequest) -> Vec<(Option<usize>, FindingKind)> {
    let findings = review(policy, request).unwrap();
    let kinds = findings
        .into_iter()
        .map(|finding| (finding.line, finding.kind));
    kinds.collect()
}

fn used(client: &str, devices: Option<i64>, since: &str, last: Option<&str>) -> ClientUse {
    ClientUse {
        client: client.into(),
        devices,
        counted_since: Some(since.parse().unwrap()),
        last_asked: last.map(|last| last.parse().unwrap()),
    }
}

fn alone() -> ReviewRequest {
    ReviewRequest {
        regions: None,
        over_quota: Vec::new(),
        now: NOW.parse().unwrap(),
        unused_days: 30,
    }
}

fn with(regions: Vec<ReviewedRegion>) -> ReviewRequest {
    ReviewRequest {
        regions: Some(regions),
        ..alone()
    }
}

fn region(name: &str, clients: &[&str]) -> ReviewedRegion {
    let clients = clients
        .iter()
        .map(|client| Selector::parse(client).unwrap());
    ReviewedRegion {
        grant: RegionGrant {
            origin: format!("region {name} of relays/edge"),
            tag: format!("tag:relay-{name}"),
            clients: clients.collect(),
            self_relay: false,
            deny_tests: false,
        },
        tag_on_others: false,
        clients: Vec::new(),
    }
}
