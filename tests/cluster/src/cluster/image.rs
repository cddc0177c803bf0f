//! Container images without a registry: the program and the libraries it loads, in one layer.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build::{self, Profile};
use crate::command::{program, run};
use crate::progress::Progress;
use crate::state::State;

/// The image with the program under test.
pub const PEERRELAY: &str = "peerrelay.dev/peerrelay:dev";
/// The image that holds the namespaces of a pod.
pub const PAUSE: &str = "peerrelay.dev/pause:dev";

/// Checksum of the layer in the archive.
const KEY_FILE: &str = "images.key";
/// Names the program on the host.
const PROGRAM_FILE: &str = "program";
const PROGRAM: &str = "/usr/bin/peerrelay";
const USER: &str = "65532:65532";
const CA_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
const PASSWD: &str =
    "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// An OCI archive with both images.
#[derive(Clone, Debug)]
pub struct Images {
    archive: PathBuf,
    changed: bool,
}

impl Images {
    /// Builds the program and, if it changed, the archive.
    pub fn build(state: &State, profile: Profile, progress: &Progress) -> Result<Self> {
        let program = build::peerrelay(profile, progress)?;
        fs::write(state.path(PROGRAM_FILE), program.display().to_string())?;
        let archive = state.path("images.tar");
        let key_file = state.path(KEY_FILE);
        let layer = layer(&program)?;
        let key = digest(&layer);
        let changed =
            !archive.exists() || fs::read_to_string(&key_file).ok().as_ref() != Some(&key);
        if changed {
            write_archive(&archive, &layer)?;
            fs::write(key_file, key)?;
        }
        Ok(Self { archive, changed })
    }

    /// The program that was built last.
    pub fn program(state: &State) -> Result<PathBuf> {
        let path = fs::read_to_string(state.path(PROGRAM_FILE));
        path.map(PathBuf::from)
            .context("nothing was built yet: run `cargo dev up`")
    }

    /// A checksum of what was built last.
    pub fn digest(state: &State) -> Result<String> {
        let key = fs::read_to_string(state.path(KEY_FILE));
        key.context("nothing was built yet: run `cargo dev up`")
    }

    /// The archive's path.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// Says whether it differs from the one before.
    pub fn changed(&self) -> bool {
        self.changed
    }
}

fn write_archive(path: &Path, layer: &[u8]) -> Result<()> {
    let mut archive = tar::Builder::new(File::create(path)?);
    let images = [
        (PEERRELAY, json!([PROGRAM])),
        (PAUSE, json!([PROGRAM, "pause"])),
    ];
    append(
        &mut archive,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    blob(&mut archive, layer)?;
    let mut manifests = Vec::new();
    for (name, entrypoint) in images {
        let config = json!({
            "architecture": architecture()?,
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "User": USER, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
        });
        let config = serde_json::to_vec(&config)?;
        blob(&mut archive, &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        blob(&mut archive, &manifest)?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": "dev",
        });
        manifests.push(entry);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    append(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
    archive
        .finish()
        .context("failed to write the image archive")
}

fn layer(program: &Path) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    append_executable(&mut layer, PROGRAM, program)?;
    for library in libraries(program)? {
        append_executable(&mut layer, &library, Path::new(&library))?;
    }
    append(&mut layer, "etc/passwd", PASSWD.as_bytes())?;
    append(&mut layer, "etc/group", GROUP.as_bytes())?;
    if let Ok(certificates) = fs::read(CA_CERTIFICATES) {
        append(&mut layer, &CA_CERTIFICATES[1..], &certificates)?;
    }
    Ok(layer.into_inner()?)
}

/// The loader and the libraries of a program, at the paths where the loader looks for them.
fn libraries(executable: &Path) -> Result<Vec<String>> {
    let listing = run(program("ldd").arg(executable))?;
    let mut libraries = Vec::new();
    for line in listing.lines() {
        if line.contains("not found") {
            bail!("a library of the program is missing: {}", line.trim());
        }
        // "libc.so.6 => /lib/.../libc.so.6 (0x...)", "/lib64/ld-linux-x86-64.so.2 (0x...)"
        libraries.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(str::to_owned),
        );
    }
    Ok(libraries)
}

fn append_executable<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    source: &Path,
) -> Result<()> {
    let content =
        fs::read(source).with_context(|| format!("failed to read {}", source.display()))?;
    append_with_mode(archive, name.trim_start_matches('/'), &content, 0o755)
}

fn append<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    content: &[u8],
) -> Result<()> {
    append_with_mode(archive, name, content, 0o644)
}

fn append_with_mode<W: std::io::Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive
        .append_data(&mut header, name, content)
        .with_context(|| format!("failed to add {name} to an archive"))
}

fn blob<W: std::io::Write>(archive: &mut tar::Builder<W>, content: &[u8]) -> Result<()> {
    append(
        archive,
        &format!("blobs/sha256/{}", digest(content)),
        content,
    )
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(content), "size": content.len()})
}

fn sha256(content: &[u8]) -> String {
    format!("sha256:{}", digest(content))
}

fn digest(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image architecture for {other}"),
    }
}
