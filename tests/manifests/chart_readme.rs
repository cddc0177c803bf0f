//! README of the chart: its table of values is generated from `values.yaml`, and its metadata is
//! correct.

use std::fs;

use peerrelay::crd::{self, PeerRelay};
use serde_json::Value;

use crate::{hold, root};

const CHART: &str = "charts/peerrelay-operator";
const README: &str = "charts/peerrelay-operator/README.md";
/// Line before the table. The table ends with the file.
const MARK: &str = "<!-- Made from values.yaml: UPDATE=1 cargo test --test manifests -->\n";

#[test]
fn readme_has_every_value() {
    let text = fs::read_to_string(root().join(README)).unwrap();
    let (head, _) = text.split_once(MARK).expect("the README has a mark");
    hold(README, &format!("{head}{MARK}{}", table()));
}

#[test]
fn every_value_says_what_it_is_for() {
    for row in rows() {
        assert!(
            row.is_section || !row.comment.is_empty(),
            "{} has no comment",
            row.path
        );
    }
}

#[test]
fn metadata_names_the_definitions_the_version_and_an_example() {
    let text = fs::read_to_string(root().join(CHART).join("Chart.yaml")).unwrap();
    let chart: Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    let annotation = |name: &str| -> Value {
        let text = chart["annotations"][format!("artifacthub.io/{name}")].as_str();
        serde_yaml::from_str(text.unwrap()).unwrap()
    };
    let named = annotation("crds");
    let named: Vec<_> = named
        .as_array()
        .unwrap()
        .iter()
        .map(|crd| &crd["name"])
        .collect();
    let all = crd::all();
    let all: Vec<_> = all
        .iter()
        .map(|crd| crd.metadata.name.as_deref().unwrap())
        .collect();
    assert_eq!(named, all);
    let example = annotation("crdsExamples")[0].clone();
    let example: PeerRelay = serde_json::from_value(example).unwrap();
    assert_eq!(example.spec.regions.len(), 1);
    for file in ["LICENSE", ".helmignore", "values-ha.yaml"] {
        assert!(root().join(CHART).join(file).is_file(), "{file}");
    }
    let license = |path: &str| fs::read(root().join(path)).unwrap();
    assert_eq!(
        license("LICENSE"),
        license("charts/peerrelay-operator/LICENSE")
    );
    let icon = chart["icon"]
        .as_str()
        .unwrap()
        .strip_prefix("https://peerrelay.dev/");
    assert!(root().join(icon.unwrap()).is_file());
}

struct Row {
    path: String,
    comment: String,
    /// True if the value has fields, which have rows of their own.
    is_section: bool,
}

/// Returns the values in their order, with the comments before them.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join(CHART).join("values.yaml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut rows: Vec<Row> = Vec::new();
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim();
        if let Some(words) = trimmed.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        let comment = std::mem::take(&mut comment).join(" ");
        let Some((key, rest)) = trimmed.split_once(':') else {
            continue;
        };
        if trimmed.starts_with('-') {
            continue;
        }
        while parents
            .last()
            .is_some_and(|(depth, _)| *depth >= indent(line))
        {
            parents.pop();
        }
        let path = parents.iter().map(|(_, key)| key.as_str()).chain([key]);
        let path = path.collect::<Vec<_>>().join(".");
        let next = lines[at + 1..].iter().find(|line| !line.trim().is_empty());
        let deeper = next.is_some_and(|next| indent(next) > indent(line));
        // Fields without comments are the value of what has one.
        let commented = next.is_some_and(|next| next.trim().starts_with('#'));
        let is_section = rest.is_empty() && deeper && commented;
        let inside = rows
            .last()
            .is_some_and(|row| !row.is_section && path.starts_with(&format!("{}.", row.path)));
        if !inside {
            rows.push(Row {
                path,
                comment,
                is_section,
            });
        }
        parents.push((indent(line), key.to_owned()));
    }
    rows
}

fn table() -> String {
    let text = fs::read_to_string(root().join(CHART).join("values.yaml")).unwrap();
    let values: Value = serde_yaml::from_str(&text).unwrap();
    let mut table = "\n| value | default | meaning |\n|---|---|---|\n".to_owned();
    for row in rows() {
        let pointer = format!("/{}", row.path.replace('.', "/"));
        let value = values.pointer(&pointer).expect("it is a value");
        let default = match row.is_section {
            true => String::new(),
            false => format!("`{value}`"),
        };
        let comment = row.comment.replace('|', "\\|");
        table += &format!("| `{}` | {default} | {comment} |\n", row.path);
    }
    table
}
