//! Unsafe blocks: the files that may have them, and their reasons.

use std::{collections::BTreeSet, fs};

use crate::source::{File, root};

/// The list of files with unsafe code is in the paragraph of this document that begins so.
const DOCUMENT: (&str, &str) = ("CONTRIBUTING.md", "- `unsafe` is allowed");

/// The files and folders of the product that may have unsafe code.
pub(crate) fn allowed() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(DOCUMENT.0)).unwrap();
    let at = text.find(DOCUMENT.1).expect("the document has the list");
    let item = text[at + 1..].split("\n-").next().unwrap_or_default();
    let item = item.split("\n\n").next().unwrap_or_default();
    let paths = item.split('`').skip(1).step_by(2);
    let paths = paths.filter(|path| path.starts_with("src/"));
    paths.map(str::to_owned).collect()
}

/// The lines of unsafe blocks without a comment `SAFETY:` above them.
pub(crate) fn unexplained(file: &File) -> Vec<usize> {
    let code: Vec<&str> = file.code.lines().collect();
    let text: Vec<&str> = file.text.lines().collect();
    let is_unsafe = |line: &&str| line.contains("unsafe {") || line.contains("unsafe impl");
    let found = code.iter().enumerate().filter(|(_, line)| is_unsafe(line));
    found
        .filter(|(at, _)| !is_explained(&text[..*at]))
        .map(|(at, _)| at + 1)
        .collect()
}

/// Returns true if the nearest comment above contains `SAFETY:`. The block may be a part of a
/// statement with several lines.
fn is_explained(before: &[&str]) -> bool {
    let is_comment = |line: &&&str| line.trim_start().starts_with("//");
    let mut lines = before
        .iter()
        .rev()
        .skip_while(|line| !is_comment(line) && !ends(line));
    lines
        .by_ref()
        .take_while(is_comment)
        .any(|line| line.contains("SAFETY:"))
}

/// Returns true if a line ends a statement or an item.
fn ends(line: &&&str) -> bool {
    line.ends_with([';', '}']) || line.is_empty()
}
