//! Code blocks of documents.

use std::{fs, path::Path};

use crate::root;

/// Beginning of the comment above a block that no test runs. The reason follows.
const NOT_RUN: &str = "<!-- not run:";
/// Directories with documents, and documents in the root.
const PLACES: [&str; 7] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "charts",
    "deploy",
    "docs",
];

/// Code block of a document.
pub(crate) struct Block {
    /// Path of the document and line of the block.
    pub(crate) place: String,
    pub(crate) language: String,
    /// Text without the indentation of the fence.
    pub(crate) text: String,
    /// Reason in the comment above the block.
    pub(crate) not_run: Option<String>,
}

/// Document with its path from the root of the repository.
pub(crate) struct Document {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn documents() -> Vec<Document> {
    let mut documents = Vec::new();
    for place in PLACES {
        read(&root().join(place), &mut documents);
    }
    documents.sort_by(|a, b| a.path.cmp(&b.path));
    documents
}

fn read(path: &Path, documents: &mut Vec<Document>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read(&entry.unwrap().path(), documents);
        }
    } else if path.extension().is_some_and(|extension| extension == "md") {
        let name = path.strip_prefix(root()).unwrap();
        documents.push(Document {
            path: name.to_str().unwrap().to_owned(),
            text: fs::read_to_string(path).unwrap(),
        });
    }
}

/// The blocks of all documents.
pub(crate) fn all() -> Vec<Block> {
    let documents = documents();
    documents.iter().flat_map(blocks).collect()
}

/// The blocks of a document.
pub(crate) fn blocks(document: &Document) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut not_run = None;
    let mut lines = document.text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let trimmed = line.trim_start();
        if let Some(rest) = trimmed.strip_prefix(NOT_RUN) {
            let reason = rest.trim().strip_suffix("-->");
            not_run = Some(reason.expect("the comment is one line").trim().to_owned());
        } else if let Some(language) = trimmed.strip_prefix("```") {
            let indent = line.len() - trimmed.len();
            let body = lines.by_ref().map(|(_, line)| line);
            let body = body.take_while(|line| line.trim() != "```");
            let text: String = body
                .map(|line| format!("{}\n", line.get(indent..).unwrap_or_default()))
                .collect();
            blocks.push(Block {
                place: format!("{}:{}", document.path, at + 1),
                language: language.to_owned(),
                text,
                not_run: not_run.take(),
            });
        } else if !trimmed.is_empty() {
            let place = format!("{}:{}", document.path, at + 1);
            assert!(not_run.is_none(), "{place}: no block follows the comment");
        }
    }
    blocks
}

#[test]
fn blocks_are_found_with_their_reasons() {
    let document = Document {
        path: "page.md".to_owned(),
        text: "1. Do:\n\n   <!-- not run: needs a cluster -->\n   ```sh\n   kubectl get pods\n   ```\n\
               \n```yaml\na: 1\n```\n"
            .to_owned(),
    };
    let blocks = blocks(&document);
    let [shell, yaml] = &blocks[..] else {
        panic!("there are two blocks")
    };
    assert_eq!(shell.place, "page.md:4");
    assert_eq!(shell.text, "kubectl get pods\n");
    assert_eq!(shell.not_run.as_deref(), Some("needs a cluster"));
    assert_eq!((&*yaml.language, &*yaml.text), ("yaml", "a: 1\n"));
    assert_eq!(yaml.not_run, None);
}
