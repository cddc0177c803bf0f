//! Compiles the program under test.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{program, query};
use crate::progress::Progress;
use crate::state::repository;

/// How it is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As tests are: quickly.
    #[default]
    Dev,
    /// As images are: for speed and size.
    Release,
}

/// Compiles the program; its path.
pub fn peerrelay(profile: Profile, progress: &Progress) -> Result<PathBuf> {
    let how = match profile {
        Profile::Dev => "",
        Profile::Release => ", as released",
    };
    progress.line(format_args!(
        "building peerrelay{how} (some minutes the first time)"
    ));
    part(profile, &[], "peerrelay")
}

/// Compiles what `target` selects of the root package; the path of the executable with this name.
pub fn part(profile: Profile, target: &[&str], name: &str) -> Result<PathBuf> {
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).args([
        "build",
        "--quiet",
        "--locked",
        "--package",
        "peerrelay",
    ]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let messages = query(
        cargo
            .args(target)
            .arg("--message-format=json-render-diagnostics"),
    )?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}
