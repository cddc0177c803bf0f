//! References from documents and comments to files, headings, code and commands of this repository.

mod commands;
mod markdown;
mod tree;

use std::{collections::BTreeSet, fs, sync::LazyLock};

use crate::source::{self, root};

use markdown::Document;
use tree::Tree;

/// Code in documents that names files outside of this repository, or gives an example.
const OTHER_FILES: [&str; 4] = ["foo.rs", "foo/", "mod.rs", "out/oci/"];
/// Names of the kernel, of Linux and of clouds, which no file of this repository contains.
const OTHER_NAMES: [&str; 4] = [
    "TCP_USER_TIMEOUT",
    "SCM_RIGHTS",
    "bpf_redirect_neigh",
    "HttpPutResponseHopLimit",
];
/// Endings of files that a document names without their directory.
const ENDINGS: [&str; 6] = [".rs", ".c", ".h", ".go", ".lua", ".md"];

fn tree() -> &'static Tree {
    static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::read(root()));
    &TREE
}

fn documents() -> &'static [Document] {
    static DOCUMENTS: LazyLock<Vec<Document>> = LazyLock::new(|| {
        let files = tree().files.iter().filter(|path| path.ends_with(".md"));
        let documents = files.map(|path| {
            let text = fs::read_to_string(root().join(path)).unwrap();
            Document::new(path, &text)
        });
        documents.collect()
    });
    &DOCUMENTS
}

#[test]
fn files_that_documents_name_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        for span in &document.spans {
            let is_word = !span.contains(' ') && !OTHER_FILES.contains(&&**span);
            if is_word && names_file(span) && !tree().has_suffix(span) {
                missing.push(format!("{}: {span}", document.path));
            }
        }
        for word in document.lines.iter().flat_map(|line| tree().paths(line)) {
            if !tree().has(word) {
                missing.push(format!("{}: {word}", document.path));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

fn names_file(span: &str) -> bool {
    let is_outside = ["/", "target/"].iter().any(|start| span.starts_with(start));
    let is_file = |ending: &&str| span.ends_with(*ending) && span.len() > ending.len();
    let is_directory = span.ends_with('/') && !is_outside;
    is_directory || ENDINGS.iter().any(is_file) || tree().is_path(span)
}

#[test]
fn links_of_documents_lead_to_files_and_headings() {
    let mut broken = Vec::new();
    for document in documents() {
        for link in &document.links {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = tree::resolve(&document.path, path);
            let page = documents().iter().find(|page| page.path == target);
            let has_heading = page.is_some_and(|page| page.headings.contains(heading));
            if !tree().has(&target) || !heading.is_empty() && !has_heading {
                broken.push(format!("{}: {link}", document.path));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn names_of_code_in_documents_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        for span in document.spans.iter().filter(|span| names_code(span)) {
            let mut parts = span.trim_end_matches("()").split("::");
            let is_missing = |part: &str| !tree().words.contains(part);
            if !OTHER_NAMES.contains(&&**span) && parts.any(is_missing) {
                missing.push(format!("{}: {span}", document.path));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// True for paths, names with underscores, and names that begin with a capital letter. Other words may
/// belong to any program.
fn names_code(span: &str) -> bool {
    let name = span.trim_end_matches("()");
    let is_word = |part: &str| {
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        part.starts_with(|letter: char| !letter.is_ascii_digit()) && part.chars().all(is_letter)
    };
    let is_distinct = name.contains("::") || name.contains('_');
    let is_type = name.starts_with(|letter: char| letter.is_ascii_uppercase());
    name.split("::").all(is_word) && (is_distinct || is_type)
}

#[test]
fn commands_that_documents_show_exist() {
    let mut wrong = Vec::new();
    for document in documents() {
        let texts = document.spans.iter().chain(&document.lines);
        for command in texts.flat_map(|text| commands::commands(text)) {
            if let Some(problem) = command.problem() {
                wrong.push(format!("{}: {problem}", document.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn documents_that_code_names_exist() {
    let mut missing = BTreeSet::new();
    let files = source::crates().iter().flat_map(|krate| &krate.files);
    for file in files.filter(|file| !file.path.starts_with("tests/house/")) {
        let words = file.text.lines().flat_map(|line| tree().paths(line));
        for word in words.filter(|word| word.starts_with("docs/")) {
            // A decision may be named by its number alone.
            let is_number = word.starts_with("docs/decisions/") && word.len() == 19;
            let is_decision = is_number && tree().files.iter().any(|path| path.starts_with(word));
            if !tree().has(word) && !is_decision {
                missing.insert(format!("{}: {word}", file.path));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn references_are_found_in_documents() {
    let text = "# A page\n\n## Its `first` heading\nSee [it](a.md#b), `src/lib.rs` and `Plan::new()`.\n\n\
        | before | now |\n|---|---|\n| `Old` | `New` |\n\n```sh\ncargo dev test \\\n  --seed 1\n```\n";
    let document = Document::new("docs/page.md", text);
    assert!(document.headings.contains("its-first-heading"));
    assert_eq!(document.links, ["a.md#b"]);
    assert_eq!(
        document.spans,
        ["first", "src/lib.rs", "Plan::new()", "New"]
    );
    assert_eq!(document.lines, ["cargo dev test    --seed 1"]);
    assert!(names_code("Plan::new()") && !names_code("edge") && !names_code("a.b"));
    assert!(names_file("src/gone.rs") && names_file("gone.rs") && !tree().has_suffix("gone.rs"));
    assert_eq!(
        tree::resolve("docs/decisions/0001.md", "../a.md"),
        "docs/a.md"
    );
}
