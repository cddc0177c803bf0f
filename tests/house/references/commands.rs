//! Commands of `peerrelay` and `cargo dev` in documents.

use std::{collections::BTreeSet, fs, process::Command as Process, sync::LazyLock};

use crate::source::{self, root};

/// A command with its words after the program's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    is_dev: bool,
    words: Vec<&'a str>,
}

/// The commands of `peerrelay`, its kubectl plugin and `cargo dev` in a line of shell.
pub(crate) fn commands(line: &str) -> Vec<Command<'_>> {
    let pieces = line.split(['|', ';', '&', '(', ')']);
    let found = pieces.filter_map(|piece| {
        let words: Vec<&str> = piece.split_whitespace().collect();
        let start = words
            .iter()
            .take_while(|word| ["$", "sudo"].contains(*word));
        let words = &words[start.count()..];
        let comment = words.iter().position(|word| word.starts_with('#'));
        let words = &words[..comment.unwrap_or(words.len())];
        match words {
            ["peerrelay", rest @ ..] | ["kubectl", "peer-relay", rest @ ..] => {
                Some((false, rest.to_vec()))
            }
            ["cargo", "dev", rest @ ..] => Some((true, rest.to_vec())),
            _ => None,
        }
    });
    let found = found.filter(|(_, words)| !words.is_empty());
    found
        .map(|(is_dev, words)| Command { is_dev, words })
        .collect()
}

impl Command<'_> {
    /// The first word that the program does not know.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = self.words[0];
        let is_flag = |word: &&&str| word.starts_with("--") && !word.starts_with("---");
        let flags = self.words.iter().filter(is_flag);
        let mut flags = flags.map(|flag| flag.split(['=', '[', ']']).next().unwrap_or(flag));
        let unknown = if self.is_dev {
            if !is_dev_command(&self.words) {
                return Some(format!("cargo dev {name}: no such command"));
            }
            flags.find(|flag| !is_dev_flag(flag))
        } else {
            let mut help = help(&self.words[..1]);
            if help.is_empty() {
                return Some(format!("peerrelay {name}: no such command"));
            }
            // The second word may be a subcommand with flags of its own.
            if let Some(words) = self.words.get(..2) {
                help.extend(self::help(words));
            }
            flags.find(|flag| !help.contains(*flag))
        };
        unknown.map(|flag| format!("{name} has no flag {flag}"))
    }
}

/// The words of the help of a subcommand: none if the program does not have it.
fn help(name: &[&str]) -> BTreeSet<String> {
    let mut process = Process::new(env!("CARGO_BIN_EXE_peerrelay"));
    if name[0].starts_with('-') {
        process.arg("--help");
    } else {
        process.arg("help").args(name);
    }
    let output = process.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_outside = |letter: char| !letter.is_ascii_alphanumeric() && letter != '-';
    let words = text.split(is_outside).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn is_dev_command(words: &[&str]) -> bool {
    static DEV: LazyLock<BTreeSet<String>> =
        LazyLock::new(|| variants("tests/dev/src/cli.rs", "enum Action {"));
    static BENCH: LazyLock<BTreeSet<String>> =
        LazyLock::new(|| variants("tests/bench/src/lib.rs", "enum Bench {"));
    match words {
        ["bench", next, ..] if !next.starts_with('-') => BENCH.contains(*next),
        [first, ..] => first.starts_with('-') || DEV.contains(*first),
        [] => true,
    }
}

/// The names that clap gives to the variants of an enum.
fn variants(path: &str, head: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let (_, body) = text.split_once(head).expect("the commands are an enum");
    let lines = body.lines().take_while(|line| *line != "}");
    let variants = lines.filter_map(|line| line.strip_prefix("    "));
    let variants = variants.filter(|line| line.starts_with(|letter: char| letter.is_uppercase()));
    let names = variants.map(|line| {
        let name = line.split(|letter: char| !letter.is_alphanumeric()).next();
        name.unwrap_or_default().to_lowercase()
    });
    names.collect()
}

/// Checks whether a field of the arguments has the name of a flag.
fn is_dev_flag(flag: &str) -> bool {
    let field = format!("{}: ", flag.trim_start_matches('-').replace('-', "_"));
    let crates = source::crates().iter();
    let mut files = crates
        .filter(|krate| krate.dir.starts_with("tests/"))
        .flat_map(|krate| &krate.files);
    flag == "--help" || files.any(|file| file.text.contains("clap") && file.text.contains(&field))
}

#[test]
fn unknown_commands_and_flags_are_found() {
    let problem = |line: &'static str| commands(line)[0].problem();
    for line in [
        "cargo dev nothing",
        "cargo dev bench nothing",
        "cargo dev test --no-such-flag",
        "peerrelay nothing",
        "$ cat a | peerrelay validate --no-such-flag",
    ] {
        assert!(commands(line)[0].problem().is_some(), "{line}");
    }
    assert_eq!(problem("peerrelay validate -f relay.yaml"), None);
    assert_eq!(problem("cargo dev bench relay --update-docs"), None);
    assert_eq!(commands("kubectl patch peerrelay edge"), []);
}
