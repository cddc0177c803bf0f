//! The bill of materials of the program, in CycloneDX 1.5: the crates that are linked into it by
//! cargo's own account, the standard library and the C library.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::manifest::Labels;
use crate::command::{program, query};

/// The root of what is linked.
const ROOT: &str = "peerrelay";

/// The document, which depends on the sources and the build machine's compilers only.
pub(super) fn of(root: &Path, labels: &Labels) -> Result<Vec<u8>> {
    let host = host()?;
    let mut cargo = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let metadata = query(cargo.current_dir(root).args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        &host,
    ]))?;
    let metadata = serde_json::from_str(&metadata).context("failed to read cargo's metadata")?;
    let checksums = checksums(&fs::read_to_string(root.join("Cargo.lock"))?);
    let crates = Crates::of(&metadata)?;
    let mut components = crates.components(&checksums);
    components.extend([standard_library()?, c_library()?]);
    let document = document(labels, &crates, components);
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

fn document(labels: &Labels, crates: &Crates<'_>, components: Vec<Value>) -> Value {
    let subject = json!({
        "type": "application",
        "bom-ref": reference(crates.root),
        "name": ROOT,
        "version": labels.version,
        "licenses": [{"expression": "Apache-2.0"}],
        "properties": [{
            "name": "revision",
            "value": labels.revision.as_deref().unwrap_or("unknown"),
        }],
    });
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": labels.created,
            "tools": {"components": [{"type": "application", "name": "cargo dev image"}]},
            "component": subject,
        },
        "components": components,
        "dependencies": crates.dependencies(),
    });
    document["serialNumber"] = json!(serial_number(&document));
    document
}

/// Crates that are linked into the program.
struct Crates<'a> {
    root: &'a str,
    /// The packages, by package id.
    packages: BTreeMap<&'a str, &'a Value>,
    /// The dependencies of each package, by package id.
    edges: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Crates<'a> {
    fn of(metadata: &'a Value) -> Result<Self> {
        let text = |value: &'a Value| value.as_str().unwrap_or_default();
        let packages: BTreeMap<&str, &Value> = list(&metadata["packages"])
            .map(|package| (text(&package["id"]), package))
            .collect();
        let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"]["nodes"])
            .map(|node| (text(&node["id"]), node))
            .collect();
        let root = packages
            .iter()
            .find(|(_, package)| package["name"] == ROOT)
            .map(|(id, _)| *id)
            .context("cargo's metadata do not have the root package")?;
        let mut edges = BTreeMap::new();
        let mut open = vec![root];
        while let Some(id) = open.pop() {
            if edges.contains_key(id) {
                continue;
            }
            let linked: BTreeSet<&str> = nodes
                .get(id)
                .into_iter()
                .flat_map(|node| list(&node["deps"]))
                .filter(|dependency| is_linked(dependency))
                .map(|dependency| text(&dependency["pkg"]))
                // A procedural macro runs in the compiler, and so do its dependencies.
                .filter(|id| packages.get(id).is_some_and(|package| !is_macro(package)))
                .collect();
            open.extend(&linked);
            edges.insert(id, linked);
        }
        Ok(Self {
            root,
            packages,
            edges,
        })
    }

    fn components(&self, checksums: &BTreeMap<(String, String), String>) -> Vec<Value> {
        let linked = self.edges.keys().filter(|id| **id != self.root);
        linked
            .map(|id| component(id, self.packages[id], checksums))
            .collect()
    }

    fn dependencies(&self) -> Vec<Value> {
        let edges = self.edges.iter();
        edges
            .map(|(id, linked)| json!({"ref": reference(id), "dependsOn": linked.iter().map(|id| reference(id)).collect::<Vec<_>>()}))
            .collect()
    }
}

fn component(id: &str, package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    let key = (text("name"), text("version"));
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(id),
        "name": key.0,
        "version": key.1,
        "scope": "required",
    });
    if let Some(license) = package["license"].as_str() {
        // Before SPDX expressions, crates separated licences by slashes.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": expression}]);
    }
    if let Some(checksum) = checksums.get(&key) {
        component["purl"] = json!(format!("pkg:cargo/{}@{}", key.0, key.1));
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

/// Identifies a crate in the document without the directory of the sources.
fn reference(id: &str) -> String {
    match id.strip_prefix("path+file://") {
        Some(path) => path.rsplit('/').next().unwrap_or(path).to_owned(),
        None => id.to_owned(),
    }
}

fn standard_library() -> Result<Value> {
    let version = rustc_field("release: ")?;
    Ok(json!({
        "type": "library",
        "bom-ref": "rust-std",
        "name": "rust-std",
        "version": version,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }))
}

/// The static C library: it has no package of its own in the image that a scanner could find.
fn c_library() -> Result<Value> {
    let output = query(program("getconf").arg("GNU_LIBC_VERSION"))?;
    let version = output.trim().trim_start_matches("glibc ").to_owned();
    let mut library = json!({
        "type": "library",
        "bom-ref": "glibc",
        "name": "glibc",
        "version": version,
        "licenses": [{"expression": "LGPL-2.1-or-later"}],
    });
    let package = query(program("dpkg-query").args(["-W", "-f", "${Version}", "libc6-dev"]));
    if let Ok(package) = package {
        library["version"] = json!(package.trim());
        library["purl"] = json!(format!("pkg:deb/debian/glibc@{}", package.trim()));
    }
    Ok(library)
}

fn host() -> Result<String> {
    rustc_field("host: ")
}

fn rustc_field(name: &str) -> Result<String> {
    let output = query(program("rustc").arg("-vV"))?;
    let value = output.lines().find_map(|line| line.strip_prefix(name));
    value
        .map(str::to_owned)
        .context("rustc -vV lacks a field that it had")
}

fn is_linked(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null())
}

fn is_macro(package: &Value) -> bool {
    list(&package["targets"])
        .flat_map(|target| list(&target["kind"]))
        .any(|kind| kind == "proc-macro")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Checksums of a lock file by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches(" = ").trim_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    packages.collect()
}

/// A UUID that is the same for the same document.
fn serial_number(document: &Value) -> String {
    let hash = Sha256::digest(document.to_string());
    let mut bytes: [u8; 16] = std::array::from_fn(|at| hash[at]);
    // Version 8, variant 1 (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("urn:uuid:{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::state::repository;

    fn labels() -> Labels {
        Labels {
            version: "1.2.3".into(),
            revision: Some("0123456789ab".into()),
            created: "2026-01-01T00:00:00Z".into(),
        }
    }

    #[test]
    fn linked_crates_are_listed_and_others_are_not() {
        let document = of(&repository(), &labels()).unwrap();
        assert_eq!(document, of(&repository(), &labels()).unwrap());
        let document: Value = serde_json::from_slice(&document).unwrap();
        let names: BTreeSet<_> = list(&document["components"])
            .map(|component| component["name"].as_str().unwrap())
            .collect();
        for linked in [
            "kube-client",
            "aws-lc-rs",
            "relay-proto",
            "aya",
            "glibc",
            "rust-std",
        ] {
            assert!(names.contains(linked), "{linked} is missing");
        }
        for other in [
            "clap_derive",
            "cc",
            "proptest",
            "tempfile",
            "bolero",
            "peerrelay",
        ] {
            assert!(!names.contains(other), "{other} is not linked");
        }
    }

    #[test]
    fn every_crate_of_a_registry_has_a_checksum_and_every_reference_a_component() {
        let document = of(&repository(), &labels()).unwrap();
        assert!(!String::from_utf8_lossy(&document).contains(&*repository().to_string_lossy()));
        let document: Value = serde_json::from_slice(&document).unwrap();
        let mut known = BTreeSet::from([document["metadata"]["component"]["bom-ref"]
            .clone()
            .to_string()]);
        for component in list(&document["components"]) {
            known.insert(component["bom-ref"].to_string());
            let is_crate = component["bom-ref"]
                .as_str()
                .unwrap()
                .starts_with("registry+");
            assert_eq!(is_crate, component["hashes"].is_array(), "{component}");
            assert!(component["licenses"].is_array(), "{component}");
        }
        for dependency in list(&document["dependencies"]) {
            for reference in list(&dependency["dependsOn"]).chain([&dependency["ref"]]) {
                assert!(known.contains(&reference.to_string()), "{reference}");
            }
        }
    }

    #[test]
    fn checksums_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1\"\nchecksum = \"ff\"\n\n\
                    [[package]]\nname = \"b\"\nversion = \"2\"\n";
        let found = checksums(lock);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&("a".into(), "1".into())], "ff");
    }
}
