//! Compiles the program under test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    command::{program, query},
    progress::Progress,
    revision::Revision,
    state::repository,
};

/// A profile of cargo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The profile of tests, which compiles quickly.
    #[default]
    Dev,
    /// The profile of images, for speed and size.
    Release,
}

/// Links the C library into the program; everything it needs is compiled in then.
const STATIC: [&str; 3] = ["--", "-C", "target-feature=+crt-static"];

/// Compiles the program, static as it is in images; its path.
pub fn peerrelay(profile: Profile, progress: &Progress) -> Result<PathBuf> {
    let how = match profile {
        Profile::Dev => "",
        Profile::Release => ", as released",
    };
    progress.line(format_args!(
        "building peerrelay{how} (some minutes the first time)"
    ));
    peerrelay_of(&repository(), profile, None)
}

/// Compiles the program from the sources in `root`, optionally into another target directory.
pub fn peerrelay_of(root: &Path, profile: Profile, target: Option<&Path>) -> Result<PathBuf> {
    let mut cargo = cargo(root, "rustc", profile)?;
    if let Some(target) = target {
        cargo.env("CARGO_TARGET_DIR", target);
    }
    cargo.args(["--bin", "peerrelay"]);
    executable(cargo, &STATIC, "peerrelay")
}

/// Compiles what `target` selects of the root package; the path of the executable with this name.
pub fn part(profile: Profile, target: &[&str], name: &str) -> Result<PathBuf> {
    let mut cargo = cargo(&repository(), "build", profile)?;
    cargo.args(target);
    executable(cargo, &[], name)
}

fn cargo(root: &Path, command: &str, profile: Profile) -> Result<Command> {
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    if profile == Profile::Release {
        cargo.arg("--config").arg(remap(root)?);
        cargo.env("PEERRELAY_COMMIT", Revision::of(&repository())?.commit);
    }
    cargo.args([command, "--quiet", "--locked", "--package", "peerrelay"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    Ok(cargo)
}

/// Names sources in the program by paths that are the same on every machine. Cargo adds this to the
/// flags of `.cargo/config.toml`; the variable RUSTFLAGS would replace them.
fn remap(root: &Path) -> Result<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let flag = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = json!([flag(&home, "/cargo"), flag(root, "/src")]);
    Ok(format!("build.rustflags={flags}"))
}

fn executable(mut cargo: Command, rustc: &[&str], name: &str) -> Result<PathBuf> {
    let messages = query(
        cargo
            .arg("--message-format=json-render-diagnostics")
            .args(rustc),
    )?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}
