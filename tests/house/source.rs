//! The Rust files of the workspace, as text and as code.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::paths::paths;

/// One crate of the workspace.
pub(crate) struct Crate {
    /// The directory that holds `lib.rs` or `main.rs`, relative to the root of the repository.
    pub(crate) dir: String,
    pub(crate) files: Vec<File>,
}

/// Rust file with its code.
pub(crate) struct File {
    /// Relative to the root of the repository.
    pub(crate) path: String,
    /// The module path below the crate: `["operator", "plan"]` for `src/operator/plan.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
    /// The text with comments and literals replaced by spaces. Lines stay where they are.
    pub(crate) code: String,
    /// The module paths that the product's code in this file names.
    pub(crate) paths: Vec<Vec<String>>,
    /// Only tests compile this file.
    pub(crate) is_test: bool,
}

/// All crates of the workspace: the members, the root package, and its integration tests.
pub(crate) fn crates() -> &'static [Crate] {
    static CRATES: LazyLock<Vec<Crate>> = LazyLock::new(read_crates);
    &CRATES
}

fn read_crates() -> Vec<Crate> {
    let root = root();
    let mut dirs = Vec::new();
    for parent in ["", "crates", "tests"] {
        find_crates(&root.join(parent), &mut dirs);
    }
    dirs.sort();
    dirs.dedup();
    dirs.iter().map(|dir| read_crate(root, dir)).collect()
}

/// Adds `parent` and its direct children where they hold the root file of a crate.
fn find_crates(parent: &Path, dirs: &mut Vec<PathBuf>) {
    let children = fs::read_dir(parent).into_iter().flatten().flatten();
    let children = children.map(|entry| entry.path());
    for dir in children.filter(|path| path.is_dir()) {
        let candidates = [dir.clone(), dir.join("src"), dir.join("tests/it")];
        let is_crate = |dir: &PathBuf| dir.join("lib.rs").exists() || dir.join("main.rs").exists();
        dirs.extend(candidates.into_iter().filter(is_crate));
    }
}

fn read_crate(root: &Path, dir: &Path) -> Crate {
    let mut paths = Vec::new();
    rust_files(dir, &mut paths);
    paths.sort();
    let mut files: Vec<File> = paths.iter().map(|path| read(root, dir, path)).collect();
    let tests: BTreeSet<Vec<String>> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        file.is_test = (0..=file.module.len()).any(|end| tests.contains(&file.module[..end]));
    }
    Crate {
        dir: relative(root, dir),
        files,
    }
}

/// The Rust files below `dir`, without those of crates inside it.
fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(root: &Path, dir: &Path, path: &Path) -> File {
    let text = fs::read_to_string(path).unwrap();
    let below = path.strip_prefix(dir).unwrap().with_extension("");
    let module = below.iter().map(|part| part.to_str().unwrap().to_owned());
    let module = module.filter(|part| part != "lib" && part != "main");
    let code = blank_text(&text);
    let module: Vec<String> = module.collect();
    File {
        path: relative(root, path),
        paths: paths(&module, &blank_tests(&code)),
        module,
        text,
        code,
        is_test: false,
    }
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The repository that holds the sources of this test.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Modules that a file declares in other files for tests only.
fn test_modules(file: &File) -> impl Iterator<Item = Vec<String>> {
    let items = test_items(&file.code);
    items.into_iter().filter_map(|(start, end)| {
        let item = file.code[start..end].trim().strip_suffix(';')?;
        let (_, name) = item.rsplit_once("mod ")?;
        let name = name.trim().to_owned();
        Some(file.module.iter().cloned().chain([name]).collect())
    })
}

/// The code without the items that only tests compile.
fn blank_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for (start, end) in test_items(code) {
        blank(&mut bytes[start..end]);
    }
    String::from_utf8(bytes).unwrap()
}

/// Start and end of each item that has the attribute `#[cfg(test)]`, also inside of `all(...)`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    let starts = ["#[cfg(test)]", "#[cfg(all(test"];
    let found = starts.iter().flat_map(|start| code.match_indices(start));
    found.map(|(at, _)| (at, item_end(code, at))).collect()
}

/// The end of the item that starts at `at`: its semicolon, or the brace that closes its body.
fn item_end(code: &str, at: usize) -> usize {
    let mut depth = 0_usize;
    let mut is_import = false;
    for (offset, letter) in code[at..].char_indices() {
        match letter {
            '(' | '[' | '{' => {
                is_import |= letter == '{' && code[..at + offset].ends_with("::");
                depth += 1;
            }
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 && !is_import {
                    return at + offset + 1;
                }
            }
            ';' if depth == 0 => return at + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// The text with comments, strings and characters replaced by spaces.
fn blank_text(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < text.len() {
        let end = at + literal(&text[at..], text[..at].chars().next_back());
        if end > at {
            blank(&mut bytes[at..end]);
            at = end;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// The length of the comment or literal that the text begins with: 0 where it begins with neither.
fn literal(text: &str, before: Option<char>) -> usize {
    let is_word = before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |end| end + 2);
    }
    let quoted = text.trim_start_matches('b');
    let prefix = text.len() - quoted.len();
    let raw = quoted.strip_prefix('r').unwrap_or_default();
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if prefix <= 1 && !is_word && raw[hashes..].starts_with('"') {
        let closing = format!("\"{}", "#".repeat(hashes));
        let body = &raw[hashes + 1..];
        let end = body
            .find(&closing)
            .map_or(body.len(), |end| end + closing.len());
        return prefix + 1 + hashes + 1 + end;
    }
    if text.starts_with('"') {
        return quoted_end(text, '"');
    }
    if text.starts_with('\'') {
        // A lifetime has no closing quote after its first letter.
        let mut letters = text.chars().skip(1);
        let first = letters.next();
        if first == Some('\\') || letters.next() == Some('\'') {
            return quoted_end(text, '\'');
        }
    }
    0
}

/// The length of a literal between two such quotes, with escapes in it.
fn quoted_end(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if letter == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn blank(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

#[test]
fn comments_literals_and_tests_are_blanked() {
    let text = "let a = 'x'; // \"no\nlet b: &'a str = r#\"q\"\"#;\n#[cfg(test)]\nmod tests {\n use {a}; }\nfn c() {}";
    let code = blank_text(text);
    assert!(code.starts_with("let a =    ;       \nlet b: &'a str =        ;\n#[cfg(test)]"));
    let product = blank_tests(&code);
    assert!(!product.contains("tests") && product.contains("fn c() {}"));
}
