#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use super::*;

#[test]
fn each_region_grants_its_clients_its_own_tag_and_tests_are_opt_in() {
    let mut regions = vec![
        region("eu", &["tag:eu", "group:berlin"]),
        region("us", &["tag:us"]),
    ];
    let default: Value = serde_json::from_str(&json(&Policy::new(regions.clone()))).unwrap();
    assert_eq!(default["tests"], Value::Null);
    assert!(!hujson(&Policy::new(regions.clone())).contains("\"tests\""));
    regions.iter_mut().for_each(|r| r.deny_tests = true);
    let policy = Policy::new(regions);
    let made: Value = serde_json::from_str(&json(&policy)).unwrap();
    let cap = json!({"tailscale.com/cap/relay": []});
    assert_eq!(
        made,
        json!({
            "tagOwners": {"tag:relay-eu": ["autogroup:admin"], "tag:relay-us": ["autogroup:admin"]},
            "grants": [
                {"src": ["tag:eu", "group:berlin"], "dst": ["tag:relay-eu"], "app": cap},
                {"src": ["tag:us"], "dst": ["tag:relay-us"], "app": cap},
            ],
            "tests": [
                {"src": "tag:relay-eu", "deny": [
                    "group:berlin:22", "group:berlin:443", "tag:eu:22", "tag:eu:443"]},
                {"src": "tag:relay-us", "deny": ["tag:us:22", "tag:us:443"]},
            ],
        })
    );
}

#[test]
fn hujson_without_its_comments_says_what_json_says() {
    let mut wide = region("wide", &["*", "192.0.2.0/24", "autogroup:member"]);
    wide.self_relay = true;
    let nobody_to_test = Policy::new(vec![region("any", &["*"])]);
    let mut tested = region("eu", &["tag:eu", "fd7a:115c:a1e0::7"]);
    tested.deny_tests = true;
    let policy = Policy::new(vec![tested, wide]);
    for policy in [policy, nobody_to_test] {
        let text = hujson(&policy);
        let unwrapped = text.replace("\n// ", " ");
        assert!(unwrapped.contains("denies everything else"), "{text}");
        let mut comments = text.lines().filter(|line| line.contains("//"));
        assert!(comments.all(|line| line.len() <= 100), "{text}");
        assert_eq!(
            standard(&text),
            serde_json::from_str::<Value>(&json(&policy)).unwrap()
        );
        assert!(!json(&policy).contains("relay-target") && !json(&policy).contains("via"));
    }
}

#[test]
fn self_relay_adds_the_tag_to_the_sources_once() {
    let mut own = region("own", &["tag:relay-own", "tag:office"]);
    own.self_relay = true;
    assert_eq!(own.grant().src, ["tag:relay-own", "tag:office"]);
    own.deny_tests = true;
    own.clients.remove(0);
    assert_eq!(own.grant().src, ["tag:office", "tag:relay-own"]);
    let tests = Policy::new(vec![own]).tests();
    assert!(
        !tests[0]
            .deny
            .iter()
            .any(|deny| deny.starts_with("tag:relay-own"))
    );
}

#[test]
fn what_is_too_wide_shared_or_useless_is_warned_of() {
    let mut second = region("two", &["100.64.0.0/10"]);
    second.tag = "tag:relay-one".into();
    let warnings = Policy::new(vec![region("one", &["*", "192.0.2.1"]), second]).warnings();
    let starts = [
        "region one of relays/edge: the client '*' allows every device",
        "region one of relays/edge: the client 192.0.2.1 is not a tailnet address",
        "region two of relays/edge: the client '100.64.0.0/10' allows every device",
        "tag:relay-one is the tag of several regions (region one of relays/edge, region two",
    ];
    assert_eq!(warnings.len(), starts.len(), "{warnings:?}");
    for (warning, start) in warnings.iter().zip(starts) {
        assert!(warning.starts_with(start), "{warning}");
    }
    assert!(
        Policy::new(vec![region("one", &["tag:a", "100.64.0.9"])])
            .warnings()
            .is_empty()
    );
}

#[test]
fn clients_are_known_by_their_form() {
    let kinds = [
        ("*", Kind::Everyone),
        ("autogroup:danger-all", Kind::Everyone),
        ("tag:office-2", Kind::Tag),
        ("group:eng@example.com", Kind::Group),
        ("autogroup:member", Kind::Autogroup),
        ("alice@example.com", Kind::User),
        ("alice@github", Kind::User),
        ("user:*@example.com", Kind::User),
        ("ipset:berlin", Kind::IpSet),
        ("my-server", Kind::Host),
        (
            "100.64.0.7",
            Kind::Address("100.64.0.7/32".parse().unwrap()),
        ),
        (
            "fd7a:115c:a1e0::/64",
            Kind::Address("fd7a:115c:a1e0::/64".parse().unwrap()),
        ),
    ];
    for (text, kind) in kinds {
        assert_eq!(Selector::parse(text).unwrap().kind(), kind, "{text}");
    }
}

#[test]
fn devices_are_matched_by_tag_owner_and_address() {
    let tagged = ["tag:office".to_owned()];
    let device = |tags, login| Device {
        tags,
        login,
        addresses: vec!["100.64.0.7".parse().unwrap()],
    };
    let server = device(&tagged, Some("alice@example.com"));
    let laptop = device(&[], Some("Alice@example.com"));
    for (selector, of_server, of_laptop) in [
        ("*", true, true),
        ("tag:office", true, false),
        ("tag:other", false, false),
        ("autogroup:tagged", true, false),
        ("autogroup:member", false, true),
        ("alice@example.com", false, true),
        ("user:*@example.com", false, true),
        ("user:*@example.net", false, false),
        ("bob@example.com", false, false),
        ("100.64.0.0/24", true, true),
        ("100.64.0.8", false, false),
    ] {
        let selector = Selector::parse(selector).unwrap();
        assert!(selector.is_resolvable(), "{selector}");
        let found = (selector.names(&server), selector.names(&laptop));
        assert_eq!(found, (of_server, of_laptop), "{selector}");
    }
    for selector in ["group:eng", "my-server", "ipset:berlin", "autogroup:admin"] {
        let selector = Selector::parse(selector).unwrap();
        assert!(
            !selector.is_resolvable() && !selector.names(&laptop),
            "{selector}"
        );
    }
}

#[test]
fn what_names_nobody_is_refused_with_the_fix() {
    for (text, fix) in [
        ("", "without spaces"),
        ("tag:a b", "without spaces"),
        ("tag:2", "begins with a letter"),
        ("tag:office:22", "have no port"),
        ("100.64.0.7:22", "have no port"),
        ("autogroup:self", "autogroup:member"),
        ("autogroup:internet", "autogroup:member"),
        ("svc:web", "only devices"),
        ("user:alice@example.com", "name@example.com"),
        ("@example.com", "name@example.com"),
        ("tags:office", "use tag:"),
        ("-office", "host alias"),
    ] {
        let error = Selector::parse(text).unwrap_err().to_string();
        assert!(error.contains(fix), "{text}: {error}");
    }
}

fn region(name: &str, clients: &[&str]) -> RegionGrant {
    RegionGrant {
        origin: format!("region {name} of relays/edge"),
        tag: format!("tag:relay-{name}"),
        clients: clients
            .iter()
            .map(|c| Selector::parse(c).unwrap())
            .collect(),
        self_relay: false,
        deny_tests: false,
    }
}

/// The document without comments, which have lines of their own, and trailing commas.
fn standard(text: &str) -> Value {
    let plain: String = text
        .lines()
        .filter(|l| !l.trim().starts_with("//"))
        .collect();
    let mut kept = String::new();
    let mut rest = plain.as_str();
    while let Some(at) = rest.find(',') {
        let after = rest[at + 1..].trim_start();
        kept += &rest[..at];
        kept += if after.starts_with(['}', ']']) {
            ""
        } else {
            ","
        };
        rest = &rest[at + 1..];
    }
    serde_json::from_str(&(kept + rest)).unwrap()
}
