//! The rules of CONTRIBUTING.md and docs/architecture.md that a program can check.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod arrows;
mod comments;
mod document;
mod functions;
mod limits;
mod log_events;
mod paths;
mod references;
mod source;
mod unsafe_code;

use std::collections::{BTreeMap, BTreeSet};

use comments::Form;
use functions::Function;
use limits::Counts;
use source::File;

const ARROWS: &str = "imports that docs/architecture.md does not allow";

#[test]
fn rooms_use_only_what_the_architecture_allows() {
    let product = source::crates().iter().find(|krate| krate.dir == "src");
    let product = product.unwrap();
    let rooms = document::rooms();
    let documented: BTreeMap<&str, &BTreeSet<String>> = rooms
        .iter()
        .map(|room| (&*room.name, &room.may_use))
        .collect();
    let names: BTreeSet<&str> = arrows::children(product, &[]).collect();
    let listed: BTreeSet<&str> = documented.keys().copied().collect();
    assert_eq!(names, listed, "modules of src, and of docs/architecture.md");

    let mut counts = Counts::new();
    for (arrow, files) in arrows::arrows(product, &[]) {
        if !documented[&*arrow.from].contains(&arrow.to) {
            println!("{arrow} in {files:?}");
            counts.add(ARROWS, format!("src/{}", arrow.from));
        }
    }
    counts.hold(&[ARROWS]);
}

const CIRCLES: &str = "circles of imports";

#[test]
fn modules_of_a_room_import_each_other_in_no_circle() {
    let mut counts = Counts::new();
    for krate in source::crates() {
        for room in arrows::rooms(krate) {
            let drawn = arrows::arrows(krate, &room);
            let path = [&[krate.dir.clone()][..], &room].concat().join("/");
            for circle in arrows::circles(&drawn) {
                println!("{path}: {}", circle.join(", "));
                let is_part = |room: &String| circle.contains(&room.as_str());
                for (arrow, files) in &drawn {
                    if is_part(&arrow.from) && is_part(&arrow.to) {
                        println!("  {arrow} in {files:?}");
                    }
                }
                counts.add(CIRCLES, path.clone());
            }
        }
    }
    counts.hold(&[CIRCLES]);
}

/// Most lines of a file.
const LONGEST_FILE: usize = 600;
const LONG_FILES: &str = "files of more than 600 lines";

#[test]
fn files_have_at_most_600_lines() {
    let mut counts = Counts::new();
    for (room, file) in files() {
        let lines = file.text.lines().count();
        if lines > LONGEST_FILE {
            println!("{} has {lines} lines", file.path);
            counts.add(LONG_FILES, room);
        }
    }
    counts.hold(&[LONG_FILES]);
}

/// Most lines of a function, signature and closing brace included.
const LONGEST_FUNCTION: usize = 60;
const LONG_FUNCTIONS: &str = "functions of more than 60 lines";

#[test]
fn functions_have_at_most_60_lines() {
    let mut counts = Counts::new();
    for (room, file) in files() {
        for Function { name, lines, .. } in functions::functions(file) {
            if lines > LONGEST_FUNCTION {
                println!("{}: {name} has {lines} lines", file.path);
                counts.add(LONG_FUNCTIONS, room.clone());
            }
        }
    }
    counts.hold(&[LONG_FUNCTIONS]);
}

#[test]
fn log_events_have_no_field_that_every_line_has() {
    for (_, file) in files() {
        let doubled = log_events::doubled(file);
        assert!(doubled.is_empty(), "{}: {doubled:?}", file.path);
    }
}

const CLAUSES: &str = "comments that begin with a clause";
const SHORT: &str = "comments of 12 letters or fewer";

#[test]
fn documentation_comments_begin_with_sentences() {
    let mut counts = Counts::new();
    for (room, file) in files() {
        for comment in comments::comments(file) {
            let rule = match comment.form() {
                Form::Clause => CLAUSES,
                Form::Short => SHORT,
                Form::Sentence => continue,
            };
            println!("{}:{}: {}", file.path, comment.line, comment.first_sentence);
            counts.add(rule, room.clone());
        }
    }
    counts.hold(&[CLAUSES, SHORT]);
}

/// Most letters of a test's name.
const LONGEST_NAME: usize = 75;
const LONG_NAMES: &str = "tests whose names have more than 75 letters";

#[test]
fn names_of_tests_have_at_most_75_letters() {
    let mut counts = Counts::new();
    for (room, file) in files() {
        let functions = functions::functions(file).into_iter();
        for test in functions.filter(|function| function.is_test) {
            if test.name.len() > LONGEST_NAME {
                println!("{}: {}", file.path, test.name);
                counts.add(LONG_NAMES, room.clone());
            }
        }
    }
    counts.hold(&[LONG_NAMES]);
}

#[test]
fn unsafe_code_stands_where_it_is_allowed_and_says_why() {
    let allowed = unsafe_code::allowed();
    assert!(!allowed.is_empty());
    for (_, file) in files() {
        let is_listed = allowed
            .iter()
            .any(|path| file.path == *path || path.ends_with('/') && file.path.starts_with(path));
        let is_product = file.path.starts_with("src/") && !file.is_test;
        assert!(
            is_listed || !is_product || !file.code.contains("unsafe "),
            "{} has unsafe code, which CONTRIBUTING.md does not allow there",
            file.path
        );
        let lines = unsafe_code::unexplained(file);
        assert!(
            lines.is_empty(),
            "{} lacks SAFETY: above {lines:?}",
            file.path
        );
    }
}

#[test]
fn files_are_named_after_what_they_hold() {
    for (_, file) in files() {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let is_bad = ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "misc.rs"].contains(&name);
        assert!(!is_bad, "{}: name it after its contents", file.path);
    }
}

/// The files of all crates, each with its room: a module of the product, or another crate.
fn files() -> impl Iterator<Item = (String, &'static File)> {
    source::crates().iter().flat_map(|krate| {
        krate.files.iter().map(|file| {
            let module = file.module.first().filter(|_| krate.dir == "src");
            let below = module.map(|module| format!("/{module}"));
            (format!("{}{}", krate.dir, below.unwrap_or_default()), file)
        })
    })
}
