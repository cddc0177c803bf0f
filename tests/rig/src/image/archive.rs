//! An OCI layout that is a `docker load` archive, too.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use anyhow::{Context, Result};
use flate2::GzBuilder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    layer::entry,
    manifest::{Image, Labels, architecture},
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const CYCLONE_DX: &str = "application/vnd.cyclonedx+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Modification time of the archive's own entries.
const NO_TIME: u64 = 0;

/// The compression of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// No compression, for an archive that goes from disk to disk.
    None,
    /// Compression by gzip, for an archive that goes through networks.
    Gzip,
}

/// A sha256 digest, `sha256:` included.
pub type Digest = String;

/// Images with a common layer, and the documents that are attached to them.
#[derive(Clone, Debug)]
pub struct Archive {
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Descriptors of the images, in the order in which they were given.
    manifests: Vec<Value>,
    /// Descriptors of documents that refer to an image.
    referrers: Vec<Value>,
    /// The manifest that `docker load` reads.
    docker: Vec<Value>,
    layer: Digest,
}

impl Archive {
    /// Packs images around a layer.
    pub(super) fn new(
        images: &[Image],
        layer: &[u8],
        compression: Compression,
        labels: &Labels,
    ) -> Result<Self> {
        let diff_id = digest(layer);
        let (kind, stored) = match compression {
            Compression::None => ("application/vnd.oci.image.layer.v1.tar", layer.to_vec()),
            Compression::Gzip => (
                "application/vnd.oci.image.layer.v1.tar+gzip",
                compress(layer)?,
            ),
        };
        let mut archive = Self {
            blobs: BTreeMap::new(),
            manifests: Vec::new(),
            referrers: Vec::new(),
            docker: Vec::new(),
            layer: digest(&stored),
        };
        let layer = archive.add(kind, stored);
        for image in images {
            archive.add_image(image, &layer, &diff_id, labels)?;
        }
        Ok(archive)
    }

    fn add_image(
        &mut self,
        image: &Image,
        layer: &Value,
        diff_id: &str,
        labels: &Labels,
    ) -> Result<()> {
        let config = self.add_json(CONFIG, &image.config(diff_id, labels)?)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": labels.all(),
        });
        let mut entry = self.add_json(MANIFEST, &manifest)?;
        let tag = image.name.rsplit(':').next().unwrap_or("latest");
        entry["platform"] = json!({"architecture": architecture()?, "os": "linux"});
        entry["annotations"] = json!({
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": tag,
        });
        self.manifests.push(entry);
        self.docker.push(json!({
            "Config": blob_path(&config),
            "RepoTags": [image.name],
            "Layers": [blob_path(layer)],
        }));
        Ok(())
    }

    /// Attaches a bill of materials in CycloneDX to the first image, as registries do that list
    /// documents that refer to an image.
    pub(super) fn with_sbom(mut self, sbom: &[u8]) -> Result<Self> {
        let mut subject = self.manifests[0].clone();
        if let Some(fields) = subject.as_object_mut() {
            fields.retain(|field, _| ["mediaType", "digest", "size"].contains(&field.as_str()));
        }
        let config = self.add(EMPTY, b"{}".to_vec());
        let layer = self.add(CYCLONE_DX, sbom.to_vec());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": CYCLONE_DX,
            "config": config,
            "layers": [layer],
            "subject": subject,
        });
        let mut entry = self.add_json(MANIFEST, &manifest)?;
        entry["artifactType"] = json!(CYCLONE_DX);
        self.referrers.push(entry);
        Ok(self)
    }

    /// Encodes the archive as a tar file. It lists images only, as not every program that imports
    /// archives skips attached documents. Their blobs are in the file.
    pub fn to_tar(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in self.files(&self.manifests)? {
            let mut header = entry(NO_TIME, 0o644, content.len() as u64);
            tar.append_data(&mut header, name, &content[..])?;
        }
        tar.into_inner().context("failed to pack the archive")
    }

    /// Writes the layout as a directory, which lists attached documents as well.
    pub fn write_layout(&self, directory: &Path) -> Result<()> {
        let all: Vec<_> = self
            .manifests
            .iter()
            .chain(&self.referrers)
            .cloned()
            .collect();
        for (name, content) in self.files(&all)? {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().context("a file has a directory")?)?;
            fs::write(&path, content)
                .with_context(|| format!("failed to write {}", path.display()))?;
        }
        Ok(())
    }

    /// Bytes of the layer as it is transferred.
    pub fn layer_size(&self) -> u64 {
        self.blobs[&self.layer].len() as u64
    }

    /// Digest of the first image.
    pub fn manifest_digest(&self) -> &str {
        self.manifests[0]["digest"].as_str().unwrap_or_default()
    }

    /// Files of the layout by path, in an order of their own.
    fn files(&self, manifests: &[Value]) -> Result<BTreeMap<String, Vec<u8>>> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": manifests,
        });
        let mut files: BTreeMap<_, _> = self
            .blobs
            .iter()
            .map(|(digest, content)| (path_of(digest), content.clone()))
            .collect();
        files.insert("index.json".into(), serde_json::to_vec(&index)?);
        files.insert("manifest.json".into(), serde_json::to_vec(&self.docker)?);
        files.insert(
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        );
        Ok(files)
    }

    fn add_json(&mut self, kind: &str, content: &Value) -> Result<Value> {
        Ok(self.add(kind, serde_json::to_vec(content)?))
    }

    /// Adds a blob; its descriptor.
    fn add(&mut self, kind: &str, content: Vec<u8>) -> Value {
        let digest = digest(&content);
        let descriptor = json!({"mediaType": kind, "digest": digest, "size": content.len()});
        self.blobs.insert(digest, content);
        descriptor
    }
}

/// Digest of some bytes.
pub fn digest(content: &[u8]) -> Digest {
    format!("sha256:{:x}", Sha256::digest(content))
}

/// Compresses bytes with a result that depends on them and on the pinned crate only.
pub fn compress(content: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(content)?;
    Ok(gzip.finish()?)
}

fn blob_path(descriptor: &Value) -> String {
    path_of(descriptor["digest"].as_str().unwrap_or_default())
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}
