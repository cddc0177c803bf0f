//! Checks of the files of a release.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program as command, run},
    image::{self, Built, architecture},
    state::repository,
    tools::Tools,
};
use serde_json::Value;

use super::{CHECKSUMS, KREW, VERSION, artifacts::CHART};

/// Fails when a released program names directories of the machine that built it, or has another
/// version than its sources.
pub(super) fn program(built: &Built) -> Result<()> {
    let content = fs::read(&built.program)?;
    let home = env::var("CARGO_HOME").or_else(|_| env::var("HOME"));
    let directories = [Some(repository().display().to_string()), home.ok()];
    for directory in directories.into_iter().flatten() {
        // "/" or "/root" alone are in programs for other reasons.
        let needle = format!("{}/", directory.trim_end_matches('/'));
        let needle = if needle.len() < 8 {
            format!("{needle}.cargo/")
        } else {
            needle
        };
        let found = content
            .windows(needle.len())
            .position(|window| window == needle.as_bytes());
        if let Some(at) = found {
            let shown = &content[at..content.len().min(at + 120)];
            anyhow::bail!(
                "the program names a directory of this machine: {}",
                String::from_utf8_lossy(shown)
            );
        }
    }
    ensure!(
        built.labels.version == VERSION,
        "the program is version {}, and {VERSION} is released",
        built.labels.version
    );
    Ok(())
}

/// Checks the files as users would: by their own tools where there are some.
pub(super) fn files(output: &Path, built: &Built, tools: &Tools) -> Result<()> {
    run(command("sha256sum")
        .current_dir(output)
        .args(["--check", "--quiet", "--strict", CHECKSUMS]))
    .context("checksums differ")?;
    let architecture = architecture()?;
    client(output, built, architecture)?;
    chart(output, tools)?;
    let manifest: Value = serde_yaml::from_str(&fs::read_to_string(output.join(KREW))?)?;
    let platform = manifest["spec"]["platforms"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|platform| platform["selector"]["matchLabels"]["arch"] == architecture)
        .context("the plugin manifest lacks this architecture")?;
    let sums = fs::read_to_string(output.join(CHECKSUMS))?;
    let sum = platform["sha256"].as_str().unwrap_or_default();
    ensure!(
        sums.contains(sum),
        "the plugin manifest has a stale checksum"
    );
    Ok(())
}

/// The program of the archive runs and says what it was built from.
fn client(output: &Path, built: &Built, architecture: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let archive = output.join(format!("peerrelay_{VERSION}_linux_{architecture}.tar.gz"));
    run(command("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(directory.path()))?;
    let said = image::version_of(&directory.path().join("peerrelay"))?;
    let revision = built.labels.revision.as_deref().unwrap_or_default();
    ensure!(
        said.contains(VERSION) && said.contains(revision),
        "the archived program says '{said}'"
    );
    // As kubectl runs it.
    let plugin = directory.path().join("kubectl-peer_relay");
    fs::rename(directory.path().join("peerrelay"), &plugin)?;
    let help = run(command(&plugin).arg("--help"))?;
    ensure!(
        help.contains("Usage: kubectl peer-relay"),
        "the plugin's help does not say how kubectl calls it"
    );
    Ok(())
}

/// The packed chart renders what the repository's renders.
fn chart(output: &Path, tools: &Tools) -> Result<()> {
    let render = |chart: &Path| {
        let mut helm = command(tools.program("helm"));
        helm.args(["template", CHART]).arg(chart).args([
            "--set",
            "image.repository=registry.example.net/peerrelay",
            "--kube-version",
            "1.36.0",
        ]);
        run(&mut helm)
    };
    let packed = render(&output.join(format!("{CHART}-{VERSION}.tgz")))?;
    let own = render(&repository().join("charts").join(CHART))?;
    ensure!(packed == own, "the packed chart renders other objects");
    Ok(())
}
