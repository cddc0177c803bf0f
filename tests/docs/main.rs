//! The documents: commands run, manifests are valid, and pages are complete. `UPDATE=1 cargo test
//! --test docs` writes the generated page. Links and names are checked by `tests/house`.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod block;
mod config;
mod manifests;
mod run;
mod shell;

use std::{fs, path::Path};

use block::Block;
use run::{Files, Shown};

/// Languages of blocks. Blocks of the last ones are output or drawings.
const LANGUAGES: [&str; 7] = [
    "sh", "console", "yaml", "json", "systemd", "text", "mermaid",
];

#[test]
fn blocks_have_a_language_that_a_test_knows() {
    for Block {
        place, language, ..
    } in block::all()
    {
        let is_known = LANGUAGES.contains(&&*language);
        assert!(is_known, "{place}: '{language}' is none of {LANGUAGES:?}");
    }
}

#[test]
fn commands_run_or_a_comment_says_why_not() {
    let files = Files::new();
    let (mut problems, mut run, mut not_run) = (Vec::new(), 0, Vec::new());
    for block in block::all() {
        let Some(script) = script(&block) else {
            assert!(
                block.not_run.is_none(),
                "{}: it has no command",
                block.place
            );
            continue;
        };
        let commands = shell::commands(&script);
        let runs = block.language == "sh" && commands.iter().all(shell::Simple::runs);
        match (&block.not_run, runs) {
            (None, true) => {
                run += 1;
                let found = commands.iter().filter_map(|command| files.run(command));
                problems.extend(found.map(|problem| format!("{}: {problem}", block.place)));
                continue;
            }
            (None, false) => problems.push(format!(
                "{}: no test runs this: write <!-- not run: REASON --> above it",
                block.place
            )),
            (Some(_), true) => problems.push(format!(
                "{}: a test can run this: remove the comment above it",
                block.place
            )),
            (Some(reason), false) => not_run.push(format!("{}: {reason}", block.place)),
        }
        for command in &commands {
            if let Shown::Own(words) = command.shown() {
                let problem = run::misunderstood(words);
                problems.extend(problem.map(|problem| format!("{}: {problem}", block.place)));
            }
        }
    }
    println!("{run} blocks of commands run, {} do not:", not_run.len());
    println!("{}", not_run.join("\n"));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(run > 0, "no block runs");
}

/// The script of a block: all of it, or the lines after prompts.
fn script(block: &Block) -> Option<String> {
    match &*block.language {
        "sh" => Some(block.text.clone()),
        "console" => {
            let lines = block.text.lines();
            let commands = lines.filter_map(|line| line.strip_prefix("$ "));
            Some(commands.map(|line| format!("{line}\n")).collect())
        }
        _ => None,
    }
}

#[test]
fn manifests_and_policies_are_valid() {
    let mut problems = Vec::new();
    let mut checked = 0;
    for block in block::all() {
        let found = match &*block.language {
            "yaml" => manifests::problems(&block),
            "json" => manifests::policy_problem(&block).into_iter().collect(),
            _ => continue,
        };
        checked += 1;
        problems.extend(
            found
                .iter()
                .map(|problem| format!("{}: {problem}", block.place)),
        );
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 0, "no block is checked");
}

#[test]
fn index_lists_every_page() {
    let index = fs::read_to_string(root().join("docs/README.md")).unwrap();
    for document in block::documents() {
        let Some(page) = document.path.strip_prefix("docs/") else {
            continue;
        };
        let is_listed = match page.split_once('/') {
            Some((directory @ ("decisions" | "runbooks"), _)) => directory,
            _ => page,
        };
        let link = format!("]({is_listed})");
        assert!(page == "README.md" || index.contains(&link), "{page}");
    }
}

#[test]
fn symptom_pages_end_with_a_command_of_this_program() {
    let mut pages = 0;
    for document in block::documents() {
        if !document.path.starts_with("docs/symptoms/") {
            continue;
        }
        pages += 1;
        let blocks = block::blocks(&document);
        let last = blocks.last().and_then(script).unwrap_or_default();
        let is_own = |command: &shell::Simple| matches!(command.shown(), Shown::Own(_));
        let ends = document.text.trim_end().ends_with("```");
        assert!(
            ends && shell::commands(&last).iter().any(is_own) || last.contains("-- peerrelay "),
            "{}: no command of peerrelay ends it",
            document.path
        );
    }
    assert!(pages > 0, "there are no pages");
}

#[test]
fn systemd_unit_starts_a_relay_with_flags_that_exist() {
    let unit = fs::read_to_string(root().join("deploy/systemd/peerrelay.service")).unwrap();
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words = shell::commands(start.unwrap()).remove(0).words;
    assert_eq!(words[0], "/usr/local/bin/peerrelay");
    assert_eq!(run::misunderstood(&words[1..]), None);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
