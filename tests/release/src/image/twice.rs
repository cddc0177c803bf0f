//! A second build of the same sources in another directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rig::{
    build::{Profile, peerrelay_of},
    command::{program, query},
    image::{Built, of},
    progress::Progress,
    revision::Revision,
    state::repository,
};

/// Builds everything a second time and fails unless both archives are the same, bit by bit.
pub(super) fn compare(first: &Built, name: &str, progress: &Progress) -> Result<()> {
    let other = tempfile::Builder::new()
        .prefix("peerrelay-image-")
        .tempdir()?;
    let root = other.path().join("another directory");
    let root = &root.display().to_string().replace(' ', "-");
    progress.line(format_args!("building again in {root}"));
    copy_sources(Path::new(root))?;
    let program = peerrelay_of(Path::new(root), Profile::Release, None)?;
    let second = of(
        &program,
        name,
        &Revision::of(&repository())?,
        Profile::Release,
    )?;
    ensure!(
        fs::read(&first.program)? == fs::read(&second.program)?,
        "the programs differ: {} and {}",
        first.program.display(),
        keep(&second.program)?.display()
    );
    ensure!(
        first.archive.to_tar()? == second.archive.to_tar()? && first.sbom == second.sbom,
        "the archives differ though the programs are the same"
    );
    progress.line("both builds are the same, bit by bit");
    Ok(())
}

/// Copies what is under version control, as it is now.
fn copy_sources(to: &Path) -> Result<()> {
    let root = repository();
    let listed = query(program("git").current_dir(&root).args(["ls-files", "-z"]))
        .context("the sources are listed by git")?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let target = to.join(name);
        fs::create_dir_all(target.parent().context("a file has a directory")?)?;
        // A file may be deleted and not yet committed.
        if root.join(name).is_file() {
            fs::copy(root.join(name), target).with_context(|| format!("failed to copy {name}"))?;
        }
    }
    Ok(())
}

/// Keeps a program for inspection.
fn keep(program: &Path) -> Result<PathBuf> {
    let kept = repository().join("target/image-second-program");
    fs::copy(program, &kept)?;
    Ok(kept)
}
