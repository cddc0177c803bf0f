//! Properties of every image, shown on a small program.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{collections::BTreeMap, fs, io::Read, os::unix::fs::PermissionsExt};

use serde_json::Value;

use super::*;

/// A program without a loader: a shell script would have one, so this is the header of one.
const PROGRAM_BYTES: &[u8] = b"\x7fELF a program";

fn archive(compression: Compression) -> Archive {
    // Each call has a directory, times and permissions of its own.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    fs::write(&program, PROGRAM_BYTES).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let revision = Revision {
        commit: "0123456789ab".into(),
        epoch: 1_764_000_000,
    };
    let said = "peerrelay 1.2.3 (commit 0123456789ab, release build for a-b)";
    let labels = Labels::of(said, &revision).unwrap();
    let layer = layer::of(&program, revision.epoch).unwrap();
    let image = Image::new("localhost/peerrelay:1.2.3", &[PROGRAM]);
    let archive = Archive::new(&[image], &layer, compression, &labels).unwrap();
    archive
        .with_sbom(b"{\"bomFormat\": \"CycloneDX\"}")
        .unwrap()
}

fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    });
    entries.collect()
}

fn json(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

fn blob(descriptor: &Value) -> String {
    path(descriptor["digest"].as_str().unwrap())
}

fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

#[test]
fn same_program_from_another_directory_makes_the_same_archive() {
    for compression in [Compression::None, Compression::Gzip] {
        let (first, second) = (archive(compression), archive(compression));
        assert!(first.to_tar().unwrap() == second.to_tar().unwrap());
    }
}

#[test]
fn every_blob_has_the_name_of_its_digest_and_every_descriptor_its_size() {
    let files = files(&archive(Compression::Gzip).to_tar().unwrap());
    for (name, content) in &files {
        if name.starts_with("blobs/") {
            assert_eq!(*name, path(&digest(content)));
        }
    }
    let index = json(&files, "index.json");
    let manifest = json(&files, &blob(&index["manifests"][0]));
    for descriptor in [
        &index["manifests"][0],
        &manifest["config"],
        &manifest["layers"][0],
    ] {
        let size = files[&blob(descriptor)].len();
        assert_eq!(descriptor["size"], size, "{descriptor}");
    }
}

#[test]
fn oci_layout_and_docker_archive_are_one_image() {
    let files = files(&archive(Compression::Gzip).to_tar().unwrap());
    let index = json(&files, "index.json");
    let manifest = json(&files, &blob(&index["manifests"][0]));
    let docker = &json(&files, "manifest.json")[0];
    assert_eq!(docker["Config"], blob(&manifest["config"]));
    assert_eq!(docker["Layers"][0], blob(&manifest["layers"][0]));
    let name = &index["manifests"][0]["annotations"]["io.containerd.image.name"];
    assert_eq!(&docker["RepoTags"][0], name);
}

#[test]
fn image_is_one_file_that_no_privileged_user_runs() {
    let files = files(&archive(Compression::None).to_tar().unwrap());
    let manifest = json(&files, &blob(&json(&files, "index.json")["manifests"][0]));
    let config = json(&files, &blob(&manifest["config"]));
    assert_eq!(config["config"]["User"], USER);
    assert_eq!(config["config"]["Entrypoint"][0], PROGRAM);
    let layer = &files[&blob(&manifest["layers"][0])];
    assert_eq!(config["rootfs"]["diff_ids"][0], digest(layer));
    let mut archive = tar::Archive::new(&layer[..]);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mode().unwrap(), 0o755);
        assert_eq!(header.mtime().unwrap(), 1_764_000_000);
        seen.push(format!("/{}", entry.path().unwrap().display()));
    }
    assert_eq!(seen, ["/usr/", "/usr/bin/", PROGRAM]);
}

#[test]
fn bill_of_materials_refers_to_the_image() {
    let archive = archive(Compression::Gzip);
    let directory = tempfile::tempdir().unwrap();
    archive.write_layout(directory.path()).unwrap();
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(directory.path().join(name)).unwrap()).unwrap()
    };
    let index = read("index.json");
    let referrer = read(&blob(&index["manifests"][1]));
    assert_eq!(
        referrer["subject"]["digest"],
        index["manifests"][0]["digest"]
    );
    assert_eq!(referrer["artifactType"], "application/vnd.cyclonedx+json");
    assert_eq!(
        read(&blob(&referrer["layers"][0]))["bomFormat"],
        "CycloneDX"
    );
}

#[test]
fn name_without_tag_has_the_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        tagged(DEFAULT_NAME),
        format!("localhost/peerrelay:{version}")
    );
    assert_eq!(
        tagged("r.example.net:5000/p"),
        format!("r.example.net:5000/p:{version}")
    );
    assert_eq!(tagged("r.example.net:5000/p:1"), "r.example.net:5000/p:1");
}
