//! Files and words of the repository.

use std::{collections::BTreeSet, fs, path::Path};

/// Directories that do not belong to the repository.
const IGNORED: [&str; 4] = [".git", "target", "out", "node_modules"];

/// Paths of the repository, relative to its root, and the words of its files.
pub(crate) struct Tree {
    pub(crate) files: BTreeSet<String>,
    directories: BTreeSet<String>,
    /// Identifiers in all files except handwritten documents.
    pub(crate) words: BTreeSet<String>,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Self {
        let mut tree = Self {
            files: BTreeSet::new(),
            directories: BTreeSet::new(),
            words: BTreeSet::new(),
        };
        tree.add(root, "");
        tree
    }

    fn add(&mut self, directory: &Path, prefix: &str) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{prefix}{name}");
            if IGNORED.contains(&&*name) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.add(&entry.path(), &format!("{path}/"));
                self.directories.insert(path);
                continue;
            }
            // The page of metrics is generated from the code.
            let is_source = !path.ends_with(".md") || path == "docs/metrics.md";
            if let Ok(text) = fs::read_to_string(entry.path())
                && is_source
            {
                let words =
                    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                self.words.extend(words.map(str::to_owned));
            }
            self.files.insert(path);
        }
    }

    /// Checks whether a file or directory has this path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        path.is_empty() || self.files.contains(path) || self.directories.contains(path)
    }

    /// Checks whether the path of a file or directory ends with these components.
    pub(crate) fn has_suffix(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let end = format!("/{path}");
        let mut all = self.files.iter().chain(&self.directories);
        all.any(|known| known == path || known.ends_with(&end))
    }

    /// Checks whether the text begins with a directory of the root.
    pub(crate) fn is_path(&self, text: &str) -> bool {
        let first = text.split_once('/').map(|(first, _)| first);
        first.is_some_and(|first| self.directories.contains(first))
    }

    /// The words of a line that are paths from the root, without wildcards and placeholders.
    pub(crate) fn paths<'a>(&'a self, line: &'a str) -> impl Iterator<Item = &'a str> {
        let is_outside =
            |letter: char| !letter.is_ascii_alphanumeric() && !"/._-*{}<>$".contains(letter);
        let words = line.split(is_outside);
        let words = words.map(|word| word.trim_end_matches(['.', '/']));
        words.filter(|word| self.is_path(word) && !word.contains(['*', '{', '<', '$']))
    }
}

/// The path from the root that a link in a document leads to.
pub(crate) fn resolve(document: &str, link: &str) -> String {
    if link.is_empty() {
        return document.to_owned();
    }
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
