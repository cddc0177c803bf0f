//! `cargo dev release`: everything that a release publishes, made and checked on this machine.
//!
//! `.github/workflows/release.yaml` runs the same command on a machine of each architecture, then
//! assembles, signs and uploads what they made.

mod artifacts;
mod check;
pub mod deny;
pub mod image;
mod krew;
mod notes;
#[cfg(test)]
mod portable;
pub mod workflows;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rig::{
    build::Profile,
    image::{DEFAULT_NAME, build, tagged},
    progress::Progress,
    state::repository,
    tools::Tools,
};

/// Version of program, chart and image.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Checksums of all other files.
const CHECKSUMS: &str = "SHA256SUMS";
/// Manifest of the kubectl plugin.
const KREW: &str = "peer-relay.yaml";
/// The text of the release's page.
const NOTES: &str = "notes.md";

/// The tag, the names and the output directory of a release.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// Make and check everything, and publish nothing; publishing is the release workflow's
    #[arg(long)]
    dry_run: bool,
    /// Add checksums, plugin manifest and notes to archives that are in the directory already
    #[arg(long, conflicts_with = "dry_run")]
    assemble: bool,
    /// The tag of the release: it must be that of the version, and the change log must have it
    #[arg(long, value_name = "vX.Y.Z")]
    tag: Option<String>,
    /// URL from which the files of a release can be fetched, for the plugin manifest
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://peerrelay.dev/releases"
    )]
    url: String,
    /// Name of the image
    #[arg(long, default_value = DEFAULT_NAME)]
    image: String,
    /// Directory for all files
    #[arg(short, long, value_name = "DIR", default_value = "target/release-out")]
    output: PathBuf,
}

/// Runs the command.
pub fn run(args: &ReleaseArgs, progress: &Progress) -> Result<()> {
    let output = repository().join(&args.output);
    let notes = notes_of(args)?;
    if args.assemble {
        return assemble(args, &output, &notes, progress);
    }
    if !args.dry_run {
        bail!(
            "publishing needs the identity of the release workflow: push the tag v{VERSION}, or give \
             --dry-run to make and check everything here"
        );
    }
    if output.exists() {
        fs::remove_dir_all(&output).context("failed to remove what was made before")?;
    }
    fs::create_dir_all(&output)?;
    let tools = Tools::build_only("helm", progress)?;
    let built = build(Profile::Release, &tagged(&args.image), progress)?;
    check::program(&built)?;
    progress.line(format_args!("image: {}", built.summary()?));
    artifacts::image(&built, &output)?;
    artifacts::client(&built, &output)?;
    artifacts::manifests(&built, &tagged(&args.image), &output)?;
    artifacts::chart(&tools, &args.image, &output)?;
    progress.line("command line archive, chart, manifests made");
    assemble(args, &output, &notes, progress)?;
    check::files(&output, &built, &tools)?;
    progress.line(
        "checked: digests, labels, build paths, archive, chart, checksums, plugin manifest; not run \
         here: signatures and provenance (cosign needs the workflow's identity), uploads, arm64 and \
         macOS (built natively by the workflow)",
    );
    Ok(())
}

/// Adds what is about all files together.
fn assemble(
    args: &ReleaseArgs,
    output: &std::path::Path,
    notes: &str,
    progress: &Progress,
) -> Result<()> {
    fs::write(output.join(NOTES), notes)?;
    let archives = artifacts::client_archives(output)?;
    ensure!(
        !archives.is_empty(),
        "{} has no command line archive",
        output.display()
    );
    fs::write(
        output.join(KREW),
        krew::manifest(VERSION, &args.url, &archives)?,
    )?;
    let sums = artifacts::checksums(output)?;
    fs::write(output.join(CHECKSUMS), &sums)?;
    progress.line(format_args!(
        "{} files in {}",
        sums.lines().count() + 1,
        output.display()
    ));
    Ok(())
}

fn notes_of(args: &ReleaseArgs) -> Result<String> {
    let text = fs::read_to_string(repository().join("CHANGELOG.md"))?;
    let released = notes::section(&text, VERSION);
    match &args.tag {
        Some(tag) => {
            ensure!(
                *tag == format!("v{VERSION}"),
                "the tag {tag} is not that of version {VERSION}: change Cargo.toml or the tag"
            );
            released.with_context(|| {
                format!("CHANGELOG.md has no section [{VERSION}]: rename [Unreleased]")
            })
        }
        None => released
            .or_else(|| notes::section(&text, "Unreleased"))
            .context("CHANGELOG.md has no section [Unreleased]"),
    }
}
