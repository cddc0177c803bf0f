//! The Dockerfile gives the image that `cargo dev image` gives.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::{Image, Labels, PROGRAM, USER};
use crate::{revision::Revision, state::repository};

/// Instructions of the last stage, by name; continued lines are one.
fn last_stage() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let text = text.replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    let instructions: Vec<(String, String)> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect();
    let last = instructions.iter().rposition(|(name, _)| name == "FROM");
    instructions[last.unwrap()..].to_vec()
}

fn only(stage: &[(String, String)], name: &str) -> String {
    let mut found = stage.iter().filter(|(known, _)| known == name);
    let (_, rest) = found.next().unwrap_or_else(|| panic!("no {name}"));
    assert!(found.next().is_none(), "more than one {name}");
    rest.clone()
}

fn config() -> Value {
    let revision = Revision {
        commit: "0123456789ab".into(),
        epoch: 0,
    };
    let version = env!("CARGO_PKG_VERSION");
    let said = format!("peerrelay {version} (commit 0123456789ab, release build for a)");
    let labels = Labels::of(&said, &revision).unwrap();
    let image = Image::new("localhost/peerrelay:1", &[PROGRAM]);
    image.config("sha256:00", &labels).unwrap()["config"].clone()
}

#[test]
fn dockerfile_has_the_same_files_user_and_entry_point() {
    let (stage, config) = (last_stage(), config());
    assert_eq!(only(&stage, "FROM"), "scratch");
    let copied = only(&stage, "COPY");
    assert_eq!(copied.rsplit(' ').next().unwrap(), PROGRAM);
    assert_eq!(only(&stage, "USER"), USER);
    assert_eq!(config["User"], USER);
    let entrypoint: Value = serde_json::from_str(&only(&stage, "ENTRYPOINT")).unwrap();
    assert_eq!(entrypoint, config["Entrypoint"]);
    assert_eq!(config["Env"], json!([only(&stage, "ENV")]));
    assert_eq!(config["WorkingDir"], only(&stage, "WORKDIR"));
}

#[test]
fn dockerfile_has_the_same_labels() {
    let stage = last_stage();
    let labels = only(&stage, "LABEL");
    let mut own: BTreeMap<&str, String> = labels
        .split("org.opencontainers.image.")
        .filter_map(|label| label.trim().split_once('='))
        .map(|(name, value)| (name, value.trim_matches('"').to_owned()))
        .collect();
    for (name, argument) in [
        ("version", "VERSION"),
        ("revision", "COMMIT"),
        ("created", "CREATED"),
    ] {
        assert_eq!(own.remove(name).unwrap(), format!("${{{argument}}}"));
    }
    let version = format!("VERSION={}", env!("CARGO_PKG_VERSION"));
    assert!(
        stage.contains(&("ARG".into(), version)),
        "the default of VERSION is stale"
    );
    let config = config();
    let mut others = config["Labels"].as_object().unwrap().clone();
    others.retain(|name, _| {
        !["version", "revision", "created"]
            .iter()
            .any(|variable| name.ends_with(&format!(".{variable}")))
    });
    assert_eq!(own.len(), others.len());
    for (name, value) in own {
        assert_eq!(others[&format!("org.opencontainers.image.{name}")], value);
    }
}

#[test]
fn dockerfile_builds_with_the_pinned_compiler_and_the_same_flags() {
    let text = fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let toolchain = fs::read_to_string(repository().join("rust-toolchain.toml")).unwrap();
    let channel = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .unwrap();
    let minor = channel.trim_matches('"').rsplit_once('.').unwrap().0;
    let base = text
        .lines()
        .find_map(|line| line.strip_prefix("ARG RUST="))
        .unwrap();
    assert!(base.contains(&format!("/rust:{minor}-")), "{base}");
    let digest = base.split_once("@sha256:").unwrap().1;
    assert_eq!(digest.len(), 64);
    for flag in [
        "--locked",
        "--release",
        "-C target-feature=+crt-static",
        "--remap-path-prefix=",
    ] {
        assert!(text.contains(flag), "{flag} is missing");
    }
}
