//! The rules of CONTRIBUTING.md and docs/architecture.md that a program can check.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod arrows;
mod document;
mod paths;
mod source;

use std::collections::{BTreeMap, BTreeSet};

use arrows::Arrow;

/// Arrows that docs/architecture.md forbids and that are still drawn. Nothing is added here.
const KNOWN_ARROWS: &[(&str, &str)] = &[("firewall", "operator")];

/// Rooms whose modules still import each other in a circle. Nothing is added here.
const KNOWN_CIRCLES: &[&str] = &[
    "crates/relay-proto/src",
    "src",
    "src/operator",
    "src/relay",
    "src/relay/shard",
    "tests/cluster/src",
    "tests/cluster/src/faults",
    "tests/cluster/src/scenarios",
];

#[test]
fn rooms_use_only_what_the_architecture_allows() {
    let crates = source::crates();
    let product = crates.iter().find(|krate| krate.dir == "src").unwrap();
    let rooms = document::rooms();
    let documented: BTreeMap<&str, &BTreeSet<String>> = rooms
        .iter()
        .map(|room| (&*room.name, &room.may_use))
        .collect();
    let names: BTreeSet<&str> = arrows::children(product, &[]).collect();
    let listed: BTreeSet<&str> = documented.keys().copied().collect();
    assert_eq!(
        names, listed,
        "modules of src, and rooms of docs/architecture.md"
    );

    let drawn = arrows::arrows(product, &[]);
    let is_forbidden = |arrow: &Arrow| !documented[&*arrow.from].contains(&arrow.to);
    let is_known = |arrow: &Arrow| KNOWN_ARROWS.contains(&(&*arrow.from, &*arrow.to));
    for (arrow, files) in &drawn {
        assert!(
            !is_forbidden(arrow) || is_known(arrow),
            "docs/architecture.md does not allow {arrow} in {files:?}"
        );
    }
}

#[test]
fn modules_of_a_room_import_each_other_in_no_circle() {
    let mut rooms = BTreeSet::new();
    for krate in source::crates() {
        for room in arrows::rooms(&krate) {
            let drawn = arrows::arrows(&krate, &room);
            let path = [&[krate.dir.clone()][..], &room].concat().join("/");
            for circle in arrows::circles(&drawn) {
                let is_part =
                    |arrow: &Arrow| circle.contains(&&*arrow.from) && circle.contains(&&*arrow.to);
                let arrows = drawn.iter().filter(|(arrow, _)| is_part(arrow));
                let arrows: Vec<_> = arrows
                    .map(|(arrow, files)| format!("{arrow} in {files:?}"))
                    .collect();
                assert!(
                    KNOWN_CIRCLES.contains(&&*path),
                    "modules of {path} import each other in a circle:\n{}",
                    arrows.join("\n")
                );
                rooms.insert(path.clone());
            }
        }
    }
    let straight = KNOWN_CIRCLES.iter().filter(|room| !rooms.contains(**room));
    for room in straight {
        println!("{room} has no circle any more: remove it from KNOWN_CIRCLES");
    }
}

/// Most lines of a file.
const LONGEST_FILE: usize = 600;
/// Files that are still longer. Nothing is added here.
const KNOWN_FILES: &[&str] = &["crates/relay-proto/src/relay.rs"];

#[test]
fn files_have_at_most_600_lines() {
    for file in source::crates().iter().flat_map(|krate| &krate.files) {
        let lines = file.text.lines().count();
        assert!(
            lines <= LONGEST_FILE || KNOWN_FILES.contains(&&*file.path),
            "{} has {lines} lines: split it",
            file.path
        );
    }
}
