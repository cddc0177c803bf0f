#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;
use crate::{
    crd::PeerRelay,
    grants::policy_file,
    operator::{
        fixtures,
        policy_sync::{Entries, INVALID, REFUSED, removal},
        referred_credential::Referred,
        validate::{PolicyAccess, policy_access, validate},
    },
};

const BASE: &str = r#"// ours
{
  "tagOwners": {
    "tag:office": [], /* x */
  },
  "grants": [
    {"src": ["tag:office"], "dst": ["tag:office"], "ip": ["*"]},
  ],
}
"#;

fn relay(name: &str) -> (PeerRelay, PolicyAccess) {
    let grants = serde_json::json!({"sync": "Apply", "oauth": {"secretName": "policy"}});
    let mut relay = fixtures::relay(serde_json::json!({"grants": grants}));
    relay.metadata.name = Some(name.to_owned());
    let access = policy_access(&relay, &Referred::Unknown).unwrap();
    (relay, access)
}

fn entries(name: &str) -> MergeRequest {
    let (relay, access) = relay(name);
    let spec = validate(&relay, &Referred::Unknown, &fixtures::defaults()).unwrap();
    Entries::new(&spec, &access).request
}

fn tag(text: &str) -> PolicyGuard {
    PolicyGuard::EntityTag(text.to_owned())
}

fn etag() -> Option<PolicyGuard> {
    Some(tag("1"))
}

/// The text that is to be validated.
fn text(request: Request) -> String {
    match request {
        Request::Validate { text } => text,
        other => panic!("{other:?}"),
    }
}

/// The policy with the entries of a PeerRelay.
fn with(base: &str, name: &str) -> String {
    policy_file::merge(base, &entries(name)).unwrap().text
}

fn reason(request: Request) -> &'static str {
    match request {
        Request::End(Finding::Failed(problem)) => problem.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_are_validated_and_written_with_the_entity_tag() {
    let mut exchange = Exchange::new(entries("edge"), Goal::Write);
    let merged = text(exchange.read(BASE.as_bytes(), etag()));
    assert_eq!(merged, with(BASE, "edge"));
    let written = Request::Write {
        text: merged.clone(),
        guard: tag("1"),
    };
    assert_eq!(exchange.validated(&[]), written);
    assert_eq!(exchange.written(true), Request::End(Finding::UpToDate));

    let mut again = Exchange::new(entries("edge"), Goal::Write);
    let up_to_date = Request::End(Finding::UpToDate);
    assert_eq!(again.read(merged.as_bytes(), None), up_to_date);
}

#[test]
fn a_policy_that_others_change_is_read_and_validated_again_three_times() {
    let mut exchange = Exchange::new(entries("edge"), Goal::Write);
    let mut base = BASE.to_owned();
    for attempt in 1..=3 {
        base.push_str("// edit\n");
        let merged = text(exchange.read(base.as_bytes(), Some(tag(&attempt.to_string()))));
        assert_eq!(merged, with(&base, "edge"), "the edit is kept");
        let Request::Write { guard, .. } = exchange.validated(&[]) else {
            panic!("attempt {attempt}");
        };
        assert_eq!(guard, tag(&attempt.to_string()));
        let next = exchange.written(false);
        match attempt {
            3 => assert_eq!(reason(next), CONTESTED),
            _ => assert_eq!(next, Request::Read),
        }
    }
}

#[test]
fn the_policy_that_is_in_force_afterwards_is_reviewed() {
    let wide = BASE.replace(
        "  ],\n}",
        "    {\"src\": [\"tag:office\"], \"dst\": [\"*\"], \"app\": {\"tailscale.com/cap/relay\": []}},\n  ],\n}",
    );
    let reviewed = |mut exchange: Exchange, faults: &[String]| {
        text(exchange.read(wide.as_bytes(), etag()));
        let end = match exchange.validated(faults) {
            Request::Write { .. } => exchange.written(true),
            end => end,
        };
        let Request::End(finding) = end else {
            panic!("it goes on");
        };
        let review = exchange.end(finding).review;
        review.iter().map(|f| f.line).collect::<Vec<_>>()
    };
    let merged = with(&wide, "edge");
    let line = |policy: &str| {
        let line = policy
            .lines()
            .position(|line| line.contains("\"dst\": [\"*\"]"));
        line.map(|line| line + 1)
    };
    assert_ne!(line(&merged), line(&wide), "the entries are above");
    let written = reviewed(Exchange::new(entries("edge"), Goal::Write), &[]);
    assert_eq!(written, [line(&merged)]);
    let refused = ["no".to_owned()];
    for (goal, faults) in [(Goal::Compare, &[][..]), (Goal::Write, &refused)] {
        let read = reviewed(Exchange::new(entries("edge"), goal), faults);
        assert_eq!(read, [line(&wide)], "{goal:?}");
    }
}

#[test]
fn a_lost_answer_of_a_write_ends_with_the_entries() {
    let mut exchange = Exchange::new(entries("edge"), Goal::Write);
    let merged = text(exchange.read(BASE.as_bytes(), etag()));
    exchange.validated(&[]);
    assert_eq!(exchange.written(false), Request::Read);
    let next = exchange.read(merged.as_bytes(), etag());
    assert_eq!(next, Request::End(Finding::UpToDate));
}

#[test]
fn a_comparison_writes_nothing_and_tells_the_difference() {
    let mut exchange = Exchange::new(entries("edge"), Goal::Compare);
    text(exchange.read(BASE.as_bytes(), None));
    let Request::End(Finding::Differs { diff, refused }) = exchange.validated(&[]) else {
        panic!("it goes on");
    };
    assert!(diff.starts_with("--- policy.hujson\n"), "{diff}");
    assert!(
        diff.contains("+      \"dst\": [\"tag:relay-office\"],"),
        "{diff}"
    );
    assert_eq!(refused, None);

    text(exchange.read(BASE.as_bytes(), None));
    let Request::End(Finding::Differs { refused, .. }) = exchange.validated(&["no".into()]) else {
        panic!("it goes on");
    };
    assert_eq!(refused.unwrap().reason, REFUSED);
}

#[test]
fn nothing_is_written_that_is_refused_or_could_undo_changes_of_others() {
    let read = |base: &str, guard: Option<PolicyGuard>| {
        Exchange::new(entries("edge"), Goal::Write).read(base.as_bytes(), guard)
    };
    assert_eq!(reason(read(BASE, None)), UNPROTECTED);
    assert_eq!(reason(read("{}", etag())), super::super::ALLOWS_ALL);
    assert_eq!(
        reason(read("{\"grants\": [], \"grants\": []}", etag())),
        INVALID
    );
    assert_eq!(reason(read("{\"grants\": {}}", etag())), INVALID);
    let Request::End(Finding::Failed(problem)) = read("{\n  \"grants\": [}", etag()) else {
        panic!("it goes on");
    };
    assert_eq!(problem.reason, INVALID);
    assert!(
        problem.message.contains("line 2, column "),
        "{}",
        problem.message
    );

    let mut exchange = Exchange::new(entries("edge"), Goal::Write);
    text(exchange.read(BASE.as_bytes(), etag()));
    let faults: Vec<_> = (0..9).map(|n| format!("fault {n}\n")).collect();
    let Request::End(Finding::Failed(problem)) = exchange.validated(&faults) else {
        panic!("it goes on");
    };
    assert_eq!(problem.reason, REFUSED);
    assert!(
        problem.message.ends_with("fault 2 ; and 6 more"),
        "{}",
        problem.message
    );
}

#[test]
fn a_removal_takes_the_entries_of_its_own_peer_relay_only() {
    let both = with(&with(BASE, "edge"), "other");
    let removal = |base: &str, name: &str| {
        let request = removal(&relay(name).1, format!("relays/{name}"));
        text(Exchange::new(request, Goal::Write).read(base.as_bytes(), etag()))
    };
    let rest = removal(&both, "edge");
    assert!(rest.contains("of relays/other"), "{rest}");
    assert!(
        !rest.contains("region office of relays/edge, tag:relay-office\n    {"),
        "{rest}"
    );
    assert_eq!(removal(&with(BASE, "edge"), "edge"), BASE);
}

#[test]
fn a_long_difference_is_cut_at_the_end_of_a_line() {
    let long = bounded("+ä\n".repeat(100_000));
    assert!(long.len() <= LONGEST_DIFF + 100);
    assert!(long.ends_with("+ä\n... (cut: peerrelay grants merge --check prints all of it)\n"));
    assert_eq!(bounded("+a\n".into()), "+a\n");
}
