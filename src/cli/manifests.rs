//! Manifests: PeerRelays and TailnetCredentials from files, for commands that need no cluster.

mod judge;
mod yaml;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Args;

pub(super) use self::{
    judge::{Finding, Judged},
    yaml::{Node, documents},
};
use super::{
    input::{self, is_standard, shown},
    output::print_error,
};
use crate::operator::validate::ValidSpec;

/// Help text about the exit codes of commands that read manifests.
pub(super) const EXIT_CODES: &str = "Exit codes: 0 if every PeerRelay is valid, 1 if a PeerRelay is invalid or a file cannot be \
     read, 2 for incorrect usage, 141 if standard output is closed. Problems and warnings go to standard error.";

/// Files that a command reads.
#[derive(Args)]
pub(super) struct Files {
    /// File or directory with PeerRelays, or '-' for standard input; can be repeated or separated by
    /// commas
    #[arg(
        short,
        long = "file",
        value_name = "FILE",
        required = true,
        value_delimiter = ','
    )]
    files: Vec<PathBuf>,
}

impl Files {
    /// Reads all PeerRelays and checks them as the API server and the operator do. Objects of other
    /// kinds are ignored.
    ///
    /// # Errors
    /// A file cannot be read, a PeerRelay is invalid, or the files contain no PeerRelay.
    pub(super) fn relays(&self) -> anyhow::Result<Vec<ValidSpec>> {
        let judged = self.judge()?;
        report(&judged);
        let problems = problems(&judged);
        ensure!(problems == 0, "{}", counted(problems, "problem"));
        let relays: Vec<_> = judged
            .into_iter()
            .filter_map(|judged| judged.relay)
            .collect();
        ensure!(!relays.is_empty(), "{}", self.empty());
        Ok(relays)
    }

    fn empty(&self) -> String {
        format!(
            "there is no PeerRelay in {}: give a file as kubectl apply takes it",
            named(&self.files)
        )
    }

    /// Creates the list of files.
    pub(super) const fn new(files: Vec<PathBuf>) -> Self {
        Self { files }
    }

    /// Reads and checks all PeerRelays and TailnetCredentials, including objects that are probably
    /// meant as such.
    ///
    /// # Errors
    /// A file cannot be read, or the files contain nothing to check.
    pub(super) fn judge(&self) -> anyhow::Result<Vec<Judged>> {
        let judged = judge::judge(&read(&self.files)?);
        ensure!(!judged.is_empty(), "{}", self.empty());
        Ok(judged)
    }
}

/// Reads files and directories. Returns the name and the content of each file.
///
/// # Errors
/// A file cannot be read, all files are empty, or standard input is named twice.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let from_stdin = files.iter().filter(|file| is_standard(file)).count();
    ensure!(
        from_stdin < 2,
        "standard input can be read once only: give -f - once"
    );
    let mut all = Vec::new();
    for file in files.iter().map(|file| expand(file)) {
        for file in file? {
            let shown = shown(&file);
            let bytes = input::read(&file).with_context(|| format!("failed to read {shown}"))?;
            all.push((shown, bytes));
        }
    }
    let is_blank = |(_, bytes): &(String, Vec<u8>)| bytes.trim_ascii().is_empty();
    ensure!(
        all.is_empty() || !all.iter().all(is_blank),
        "{} is empty: give it a manifest, such as the output of kubectl get -o yaml",
        named(files)
    );
    Ok(all)
}

/// Checks PeerRelays in a text, as [`Files::judge`] does.
pub(super) fn judge_text(name: &str, text: &str) -> Vec<Judged> {
    judge::judge(&[(name.to_owned(), text.as_bytes().to_vec())])
}

/// Returns the names of files, for messages.
pub(super) fn named(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| shown(file)).collect();
    files.join(", ")
}

/// Writes all problems to standard error.
pub(super) fn report(judged: &[Judged]) {
    for judged in judged {
        for finding in &judged.findings {
            print_error(judged.line(finding));
        }
    }
}

/// Returns the number of problems of all objects.
pub(super) fn problems(judged: &[Judged]) -> usize {
    judged.iter().map(|judged| judged.findings.len()).sum()
}

/// Returns a number with its noun, such as "2 problems".
pub(super) fn counted(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

/// Returns the path itself, or the manifests of a directory in their order.
fn expand(file: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if is_standard(file) || !file.is_dir() {
        return Ok(vec![file.to_owned()]);
    }
    let failed = || format!("failed to read directory {}", file.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(file).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("yaml" | "yml" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
