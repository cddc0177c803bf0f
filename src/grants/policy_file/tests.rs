#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod generated;

use super::*;
use crate::grants::{RegionGrant, Selector};

const POLICY: &str = r#"// Owned by the network team.
{
  /* who may own what */
  "tagOwners": {
    "tag:office": ["autogroup:admin"], // laptops
  },

  "grants": [
    {"src": ["tag:office"], "dst": ["tag:office"], "ip": ["*"]},
    // {"src": ["*"], "dst": ["*"], "ip": ["*"]},
  ],
}
"#;

const MERGED: &str = r#"// Owned by the network team.
{
  /* who may own what */
  "tagOwners": {
    "tag:office": ["autogroup:admin"], // laptops
    // Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu
    "tag:relay-eu": ["autogroup:admin"],
  },

  "grants": [
    {"src": ["tag:office"], "dst": ["tag:office"], "ip": ["*"]},
    // {"src": ["*"], "dst": ["*"], "ip": ["*"]},
    // Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu
    {
      "src": ["tag:office", "group:eng"],
      "dst": ["tag:relay-eu"],
      "app": {"tailscale.com/cap/relay": []},
    },
  ],
}
"#;

#[test]
fn entries_are_added_in_the_layout_of_the_file_and_removed_again() {
    let request = request(vec![region("eu", &["tag:office", "group:eng"])]);
    let merged = merge(POLICY, &request).unwrap();
    assert_eq!(merged.text, MERGED);
    assert_eq!(merged.notes, []);
    assert_eq!(merge(MERGED, &request).unwrap().text, MERGED);
    assert_eq!(merge(MERGED, &pruned()).unwrap().text, POLICY);
    assert_eq!(merge(POLICY, &pruned()).unwrap().text, POLICY);
}

#[test]
fn a_changed_region_changes_only_its_own_lists() {
    let edited = MERGED
        .replace(
            "\"group:eng\"]",
            "\"group:eng\" /* ask Ann */, \"tag:old\"]",
        )
        .replace(
            "\"dst\": [\"tag:relay-eu\"]",
            "\"dst\" : [ \"tag:relay-eu\" ]",
        );
    let request = request(vec![region("eu", &["group:eng", "tag:new"])]);
    let wanted = edited.replace(
        "[\"tag:office\", \"group:eng\" /* ask Ann */, \"tag:old\"]",
        "[\"group:eng\" /* ask Ann */, \"tag:new\"]",
    );
    assert_eq!(merge(&edited, &request).unwrap().text, wanted);
}

#[test]
fn a_moved_entry_is_found_by_its_marker_and_a_lone_marker_is_not_trusted() {
    let request = request(vec![region("eu", &["tag:office"])]);
    let first = merge(POLICY, &request).unwrap().text;
    let entry = first.find("    // Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu\n    {").unwrap();
    let end = first.rfind("  ],\n}").unwrap();
    let block = &first[entry..end];
    let grants = first.find("\"grants\": [\n").unwrap() + "\"grants\": [\n".len();
    let moved = format!(
        "{}{block}{}{}",
        &first[..grants],
        &first[grants..entry],
        &first[end..]
    );
    assert_ne!(moved, first);
    assert_eq!(merge(&moved, &request).unwrap().text, moved);

    // The entry is gone, and its marker is now above an entry of the user.
    let marker = block.lines().next().unwrap();
    let own = "    {\"src\": [\"tag:office\"], \"dst\": [\"tag:office\"], \"ip\": [\"*\"]},";
    let lone = POLICY.replace(own, &format!("{marker}\n{own}"));
    let merged = merge(&lone, &request).unwrap().text;
    assert!(merged.contains(&format!("{marker}\n{own}")), "{merged}");
    assert_eq!(merged.matches(marker.trim()).count(), 3, "{merged}");
    assert_eq!(merge(&merged, &pruned()).unwrap().text, lone);
}

#[test]
fn a_new_tag_and_a_removed_region_replace_their_entries() {
    let both = request(vec![
        region("eu", &["tag:office"]),
        region("us", &["tag:us"]),
    ]);
    let merged = merge(POLICY, &both).unwrap().text;
    let mut renamed = region("eu", &["tag:office"]);
    renamed.tag = "tag:europe".into();
    let changed = merge(&merged, &request(vec![renamed])).unwrap().text;
    assert!(
        !changed.contains("relay-eu") && !changed.contains("relay-us"),
        "{changed}"
    );
    let wanted = "region eu of relays/edge, tag:europe\n    {\n      \"src\": [\"tag:office\"],\n      \
                  \"dst\": [\"tag:europe\"],";
    assert!(changed.contains(wanted), "{changed}");
    assert!(
        changed.contains("    \"tag:europe\": [\"autogroup:admin\"],"),
        "{changed}"
    );

    // A tag that other rules use keeps its owners.
    let used = merged.replace(
        "    // {\"src\"",
        "    {\"src\": [\"tag:relay-us\"], \"dst\": [\"tag:office:22\"], \"ip\": [\"*\"]},\n    // {\"src\"",
    );
    let kept = merge(&used, &request(vec![region("eu", &["tag:office"])])).unwrap();
    assert!(kept.text.contains("\"tag:relay-us\": ["), "{}", kept.text);
    assert!(
        kept.notes[0].message.starts_with("tag:relay-us is kept"),
        "{:?}",
        kept.notes
    );
}

#[test]
fn entries_of_other_peer_relays_and_clusters_stay() {
    let mut other = region("eu", &["tag:lab"]);
    other.origin = "region eu of relays/lab".into();
    other.tag = "tag:relay-lab".into();
    let first = merge(POLICY, &request(vec![other])).unwrap().text;
    let second = request(vec![region("eu", &["tag:office"])]);
    let both = merge(&first, &second).unwrap().text;
    assert!(both.starts_with(&first[..first.find("tag:relay-lab\n").unwrap()]));
    assert!(both.contains("relays/lab, tag:relay-lab"), "{both}");
    let mut only = second.clone();
    only.prune = true;
    assert!(!merge(&both, &only).unwrap().text.contains("lab"));
    only.cluster = Some("blue".into());
    let named = merge(&both, &only).unwrap().text;
    assert!(
        named.contains("of relays/edge in blue, tag:relay-eu"),
        "{named}"
    );
    assert!(named.contains("of relays/lab, tag:relay-lab"), "{named}");
}

#[test]
fn what_was_merged_by_hand_is_kept_and_adopted_on_request() {
    let hand = POLICY.replace(
        "  ],\n}",
        "    {\"src\": [\"tag:office\", \"tag:more\"], \"dst\": [\"tag:relay-eu\"], \"app\": \
         {\"tailscale.com/cap/relay\": [{}]}}\n  ],\n}",
    );
    let hand = hand.replace("// laptops", "\"tag:relay-eu\": [\"group:eng\"],");
    let mut request = request(vec![region("eu", &["tag:office"])]);
    let kept = merge(&hand, &request).unwrap();
    assert_eq!(kept.text, hand);
    assert!(
        kept.notes[0].message.contains("--adopt"),
        "{:?}",
        kept.notes
    );
    request.adopt = true;
    let adopted = merge(&hand, &request).unwrap();
    assert_eq!(adopted.notes, []);
    let wanted = "    // Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu\n    \
                  {\"src\": [\"tag:office\"], \"dst\": [\"tag:relay-eu\"], \"app\"";
    assert!(adopted.text.contains(wanted), "{}", adopted.text);
    assert!(
        adopted.text.contains("\"tag:relay-eu\": [\"group:eng\"],"),
        "{}",
        adopted.text
    );
}

#[test]
fn owners_are_changed_only_if_they_are_named() {
    let mut named = request(vec![region("eu", &["tag:office"])]);
    let merged = merge(POLICY, &named).unwrap().text;
    let own = merged.replace("eu\": [\"autogroup:admin\"]", "eu\": [\"group:ops\"]");
    assert_eq!(merge(&own, &named).unwrap().text, own);
    named.owners = Some(vec!["tag:operator".into()]);
    let owned = merge(&own, &named).unwrap().text;
    assert!(
        owned.contains("\"tag:relay-eu\": [\"tag:operator\"],"),
        "{owned}"
    );
}

#[test]
fn other_layouts_are_kept() {
    let rule = r#"{"src": ["tag:office"], "dst": ["tag:relay-eu"], "app": {"tailscale.com/cap/relay": []}}"#;
    let request = request(vec![region("eu", &["tag:office"])]);
    let marker = "Managed by peerrelay grants merge: region eu of relays/edge, tag:relay-eu";
    let one = merge(r#"{"acls":[],"grants":[]}"#, &request).unwrap().text;
    let wanted = format!(
        r#"{{"acls":[],"grants":[/* {marker} */ {rule}], "tagOwners": {{/* {marker} */ "tag:relay-eu": ["autogroup:admin"]}}}}"#
    );
    assert_eq!(one, wanted);
    let windows = "{\r\n\t\"acls\": [],\r\n\t\"Grants\": null\r\n}\r\n";
    let windows = merge(windows, &request).unwrap().text;
    assert_eq!(
        windows.matches('\n').count(),
        windows.matches("\r\n").count()
    );
    let wanted = format!("\t\"Grants\": [\r\n\t\t// {marker}\r\n\t\t{{\r\n\t\t\t\"src\"");
    assert!(windows.contains(&wanted), "{windows}");
    // The file has no trailing commas, so it stays readable for programs that allow none.
    assert!(
        !windows.contains(",\r\n\t}") && !windows.contains(",\r\n\t\t}"),
        "{windows}"
    );
    let mut plain = request;
    plain.no_markers = true;
    let json = merge("{\n \"acls\": []\n}", &plain).unwrap().text;
    serde_json::from_str::<serde_json::Value>(&json).unwrap();
    assert_eq!(merge(&json, &plain).unwrap().text, json);
}

#[test]
fn tests_are_merged_if_the_peer_relay_has_them() {
    let mut tested = region("eu", &["tag:office"]);
    tested.deny_tests = true;
    let with = merge(POLICY, &request(vec![tested])).unwrap().text;
    assert!(
        with.contains("\"deny\": [\"tag:office:22\", \"tag:office:443\"],"),
        "{with}"
    );
    let without = merge(&with, &request(vec![region("eu", &["tag:office"])]))
        .unwrap()
        .text;
    assert!(!without.contains("deny"), "{without}");
}

#[test]
fn a_policy_that_allows_everything_is_refused_unless_told() {
    let mut request = request(vec![region("eu", &["tag:office"])]);
    for open in [
        "{}",
        "{\"acls\": null}",
        "{\"GRANTS\": null, \"hosts\": {}}",
    ] {
        let error = merge(open, &request).unwrap_err();
        assert_eq!(error.fault, PolicyFault::FirstGrants, "{open}");
        assert!(error.to_string().contains("--first-grants=allow-all"));
    }
    request.first_grants = Some(FirstGrants::RelaysOnly);
    assert!(!merge("{}", &request).unwrap().text.contains("\"ip\""));
    request.first_grants = Some(FirstGrants::AllowAll);
    let open = merge("{}", &request).unwrap().text;
    assert!(open.contains(crate::grants::ALLOW_ALL), "{open}");
    assert_eq!(merge(&open, &request).unwrap().text, open);
    for closed in ["{\"grants\": []}", "{\"ACLs\": []}"] {
        request.first_grants = None;
        merge(closed, &request).unwrap();
    }
}

#[test]
fn what_is_not_a_policy_is_refused_with_line_and_column() {
    let request = request(vec![region("eu", &["tag:office"])]);
    for (text, line, column, words) in [
        ("", 1, 1, "no policy"),
        ("// nothing\n", 1, 11, "no policy"),
        ("[]", 1, 1, "a policy is an object"),
        ("\u{feff}{\"acls\": []}", 1, 1, "byte order mark"),
        ("{\n  'acls': []}", 2, 3, "single-quoted"),
        ("{\"acls\": []} {}", 1, 14, "more than one"),
        ("{\"acls\": [1 2]}", 1, 12, "comma"),
        ("{acls: []}", 1, 2, "expected string"),
        ("{\"acls\": [0x1]}", 1, 11, "hexadecimal"),
        ("{\"acls\": [], # no\n}", 1, 14, "token"),
        ("{\"acls\": [\"a\tb\"]}", 1, 11, "control character"),
        ("{\"acls\":\u{a0}[]}", 1, 9, "is not allowed here"),
        ("{\"acls\":\u{c}[]}", 1, 9, "is not allowed here"),
        ("{\"acls\": []}\r", 1, 13, "is not allowed here"),
        ("{\"acls\": [\"\\ud800\"]}", 1, 12, "surrogate"),
        ("{\"acls\": [01]}", 1, 12, "comma"),
        ("{\"acls\": []}\n// end", 2, 1, "must end with a line feed"),
        (
            "{\"acls\": [],\n\"ACLS\": []}",
            2,
            1,
            "already used in line 1",
        ),
        (
            "{\"acls\": [],\n\"hosts\": {\"a\": 1, \"a\": 2}}",
            2,
            19,
            "already used in line 2",
        ),
        (
            "{\"acls\": [{\"src\": [],\n\"Src\": []}]}",
            2,
            1,
            "already used in line 1",
        ),
        ("{\"grants\": {}}", 1, 12, "grants must be a list"),
        (
            "{\"grants\": [],\n \"tagOwners\": []}",
            2,
            15,
            "tagowners must be an object",
        ),
    ] {
        let error = merge(text, &request).expect_err(text);
        let said = error.to_string().to_lowercase();
        assert_eq!((error.line, error.column), (line, column), "{text}: {said}");
        assert!(said.contains(words), "{text}: {said}");
    }
    let error = decode(b"{\n\xff}").unwrap_err();
    assert_eq!(
        (error.line, error.column, error.fault),
        (2, 1, PolicyFault::NotText)
    );
    let deep = format!("{{\"acls\": {}", "[".repeat(100_000));
    merge(&deep, &request).unwrap_err();
}

#[test]
fn repeated_names_are_accepted_if_told() {
    let mut request = request(vec![region("eu", &["tag:office"])]);
    request.duplicate_names = true;
    let twice = "{\n  \"grants\": [],\n  \"grants\": []\n}\n";
    let merged = merge(twice, &request).unwrap().text;
    assert!(
        merged.starts_with("{\n  \"grants\": [],\n  \"grants\": [\n    //"),
        "{merged}"
    );
    // Names that the user chose may differ in case only.
    request.duplicate_names = false;
    merge(
        "{\"acls\": [], \"hosts\": {\"a\": \"100.64.0.1\", \"A\": \"100.64.0.2\"}}",
        &request,
    )
    .unwrap();
}

#[test]
fn no_bytes_make_the_parser_panic() {
    let request = request(vec![region("eu", &["tag:office"])]);
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(text) = decode(bytes)
            && let Ok(merged) = merge(text, &request)
        {
            assert_eq!(merge(&merged.text, &request).unwrap().text, merged.text);
        }
    });
}

fn request(regions: Vec<RegionGrant>) -> MergeRequest {
    MergeRequest {
        regions,
        ..MergeRequest::default()
    }
}

/// A request that removes everything generated.
fn pruned() -> MergeRequest {
    MergeRequest {
        prune: true,
        ..MergeRequest::default()
    }
}

fn region(name: &str, clients: &[&str]) -> RegionGrant {
    let clients = clients
        .iter()
        .map(|client| Selector::parse(client).unwrap());
    RegionGrant {
        origin: format!("region {name} of relays/edge"),
        tag: format!("tag:relay-{name}"),
        clients: clients.collect(),
        self_relay: false,
        deny_tests: false,
    }
}
