//! Container images without a container registry and without a base image.
//!
//! An image holds one file, the static program: glibc resolves names without further libraries, and
//! the public certificate authorities are compiled in (`docs/decisions/0017-one-file-images.md`).

mod archive;
mod elf;
mod layer;
mod manifest;
mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

pub use self::{
    archive::{Archive, Compression, Digest, compress, digest},
    layer::{PROGRAM, entry},
    manifest::{Image, Labels, USER, architecture},
};
use crate::{
    build::{self, Profile},
    command::{program, run as run_program},
    progress::Progress,
    revision::Revision,
    state::repository,
};

/// Name of the image unless another is set; no one else can own a repository of this host.
pub const DEFAULT_NAME: &str = "localhost/peerrelay";
/// Name of the archive that `docker load` and `ctr images import` read.
pub const ARCHIVE: &str = "image.tar";
/// Name of the directory with the OCI layout.
pub const LAYOUT: &str = "oci";
/// Name of the bill of materials.
pub const SBOM: &str = "sbom.cdx.json";

/// A published image with its bill of materials and program.
#[derive(Debug)]
pub struct Built {
    /// The image and its bill of materials.
    pub archive: Archive,
    /// The bill of materials, as CycloneDX JSON.
    pub sbom: Vec<u8>,
    /// The program in the image.
    pub program: PathBuf,
    /// The labels, which repeat what `--version` says.
    pub labels: Labels,
    /// Time of the sources in seconds since 1970.
    pub epoch: u64,
}

/// Builds the program as it is now, and the image around it.
pub fn build(profile: Profile, name: &str, progress: &Progress) -> Result<Built> {
    let revision = Revision::of(&repository())?;
    let program = build::peerrelay(profile, progress)?;
    of(&program, name, &revision, profile)
}

/// Builds the image around a program.
pub fn of(program: &Path, name: &str, revision: &Revision, profile: Profile) -> Result<Built> {
    elf::ensure_static(program)?;
    let labels = Labels::of(&version_of(program)?, revision)?;
    if profile == Profile::Release {
        ensure!(
            labels.revision.as_deref() == Some(revision.commit.as_str()),
            "the program says it was built from {}, and {} is checked out: build again",
            labels.revision.as_deref().unwrap_or("nothing known"),
            revision.commit
        );
    }
    let sbom = sbom::of(&repository(), &labels)?;
    let image = Image::new(name, &[PROGRAM]);
    let compression = match profile {
        Profile::Release => Compression::Gzip,
        Profile::Dev => Compression::None,
    };
    let layer = layer::of(program, revision.epoch)?;
    let archive = Archive::new(&[image], &layer, compression, &labels)?.with_sbom(&sbom)?;
    Ok(Built {
        archive,
        sbom,
        program: program.into(),
        labels,
        epoch: revision.epoch,
    })
}

/// Writes archive, layout and bill of materials; the path of the archive.
pub fn write(built: &Built, output: &Path) -> Result<PathBuf> {
    fs::create_dir_all(output).with_context(|| format!("failed to make {}", output.display()))?;
    let layout = output.join(LAYOUT);
    if layout.exists() {
        fs::remove_dir_all(&layout)?;
    }
    built.archive.write_layout(&layout)?;
    fs::write(output.join(SBOM), &built.sbom)?;
    let archive = output.join(ARCHIVE);
    fs::write(&archive, built.archive.to_tar()?)
        .with_context(|| format!("failed to write {}", archive.display()))?;
    Ok(archive)
}

/// Archive of the images that the rig runs: the program, and the one that holds a pod's namespaces.
///
/// The bytes are those that `cargo dev image` packs around the same program.
pub fn for_rig(program: &Path, images: &[Image]) -> Result<Archive> {
    elf::ensure_static(program)?;
    let revision = Revision::of(&repository())?;
    let labels = Labels::of(&version_of(program)?, &revision)?;
    let layer = layer::of(program, revision.epoch)?;
    let sbom = sbom::of(&repository(), &labels)?;
    Archive::new(images, &layer, Compression::None, &labels)?.with_sbom(&sbom)
}

/// The version line that a program prints for `--version`.
pub fn version_of(executable: &Path) -> Result<String> {
    let said = run_program(program(executable).arg("--version"))?;
    Ok(said.trim().to_owned())
}

/// The name with a tag: the version, when it has none.
pub fn tagged(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') {
        return name.to_owned();
    }
    format!("{name}:{}", env!("CARGO_PKG_VERSION"))
}

impl Built {
    /// Size of program and archive.
    pub fn summary(&self) -> Result<String> {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        Ok(format!(
            "{}, {} unpacked, {} to transfer, manifest {}",
            self.labels.version,
            mib(fs::metadata(&self.program)?.len()),
            mib(self.archive.layer_size()),
            self.archive.manifest_digest(),
        ))
    }
}

#[cfg(test)]
mod dockerfile;
#[cfg(test)]
mod tests;
