//! The page of the configuration file, made from the types that the relay reads.

use std::{env, fs};

use crate::root;

const PAGE: &str = "docs/config.md";
const TITLE: &str = "# Configuration file of a relay

This page is generated from the code (`UPDATE=1 cargo test --test docs`). It lists the fields of the file that
`peerrelay relay --config FILE` reads ([standalone.md](standalone.md)). All fields are optional. `peerrelay relay --help`
lists the flags and environment variables of the same settings. In a cluster, the operator writes the file.

Unknown fields are ignored, with a warning that suggests the field that was probably meant. An invalid value is an
error. While the relay runs, a change of `port`, `endpoints`, `clients` and `logLevel` takes effect within seconds, without a
restart. If the file is then invalid, the relay logs this and keeps its former settings.
";
/// Types of the file, with the heading of their section.
const SECTIONS: [(&str, &str, &str); 6] = [
    ("src/config.rs", "struct RelayConfig", "Fields"),
    (
        "src/config/endpoints.rs",
        "struct EndpointsConfig",
        "Fields of endpoints",
    ),
    (
        "src/config/endpoints.rs",
        "enum Discover",
        "Values of endpoints.discover",
    ),
    (
        "src/config/endpoints.rs",
        "enum Advertise",
        "Values of endpoints.advertise",
    ),
    (
        "src/config/data_path.rs",
        "enum DataPath",
        "Values of dataPath",
    ),
    (
        "src/config/log_level.rs",
        "enum LogLevel",
        "Values of logLevel",
    ),
];
/// Fields that only the operator writes.
const OF_THE_OPERATOR: [&str; 5] = [
    "hostnamePrefix",
    "metricsOnNode",
    "nodes",
    "report",
    "requestAuthKey",
];

#[test]
fn page_of_the_configuration_file_is_what_the_types_say() {
    let mut page = TITLE.to_owned();
    for (path, name, heading) in SECTIONS {
        let source = fs::read_to_string(root().join(path)).unwrap();
        page += &format!("\n## {heading}\n\n| name | meaning |\n|---|---|\n");
        for (field, meaning) in members(&source, name) {
            if !OF_THE_OPERATOR.contains(&&*field) {
                page += &format!("| `{field}` | {meaning} |\n");
            }
        }
    }
    let path = root().join(PAGE);
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found != page && env::var_os("UPDATE").is_some() {
        fs::write(path, page).unwrap();
    } else {
        assert_eq!(found, page, "UPDATE=1 cargo test --test docs writes {PAGE}");
    }
}

/// The fields of a struct or the variants of an enum, as they are named in YAML, with their documentation.
fn members(source: &str, name: &str) -> Vec<(String, String)> {
    let (_, body) = source.split_once(&format!("pub {name} {{\n")).unwrap();
    let is_struct = name.starts_with("struct ");
    let mut members = Vec::new();
    let mut meaning = Vec::new();
    let mut rename = None;
    for line in body.lines().take_while(|line| *line != "}") {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("/// ") {
            meaning.push(text.replace("[`", "`").replace("`]", "`"));
        } else if let Some((_, rest)) = line.split_once("rename = \"") {
            rename = rest.split('"').next().map(str::to_owned);
        } else if !line.starts_with(['#', '/', ')']) {
            let field = line.strip_prefix("pub ").and_then(|l| l.split_once(':'));
            let member = match (is_struct, field) {
                (true, Some((field, _))) => camel_case(field),
                (false, _) if line.ends_with(',') => line.trim_end_matches(',').to_owned(),
                _ => continue,
            };
            members.push((rename.take().unwrap_or(member), meaning.join(" ")));
            meaning.clear();
        }
    }
    members
}

fn camel_case(field: &str) -> String {
    let mut parts = field.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

#[test]
fn members_are_read_with_names_and_meanings() {
    let source = "pub struct A {\n    /// One\n    /// field.\n    #[serde(skip)]\n    pub a_bc: u8,\n    \
                  /// Other.\n    #[serde(rename = \"x\")]\n    pub y: u8,\n}\n";
    let found = members(source, "struct A");
    let wanted = [("aBc", "One field."), ("x", "Other.")];
    let wanted = wanted.map(|(field, meaning)| (field.to_owned(), meaning.to_owned()));
    assert_eq!(found, wanted);
    let source = "pub enum A {\n    /// One.\n    #[default]\n    B,\n    /// Two.\n    \
                  #[serde(rename = \"x\")]\n    C,\n}\n";
    let wanted = [("B", "One."), ("x", "Two.")];
    let wanted = wanted.map(|(name, meaning)| (name.to_owned(), meaning.to_owned()));
    assert_eq!(members(source, "enum A"), wanted);
}
