//! The configuration and the labels of an image.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::revision::Revision;

/// User and group of the process.
pub const USER: &str = "65532:65532";
/// The variable PATH, in which the operator and a stand-alone relay search for commands.
const PATH: &str = "PATH=/usr/bin";

/// An image of an archive.
#[derive(Clone, Debug)]
pub struct Image {
    /// The name and the tag of the image.
    pub name: String,
    /// The command that the image runs.
    pub entrypoint: Vec<String>,
}

impl Image {
    /// An image with a name and the command that it runs.
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    /// The configuration of the image.
    pub(super) fn config(&self, diff_id: &str, labels: &Labels) -> Result<Value> {
        Ok(json!({
            "architecture": architecture()?,
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": [PATH],
                "Labels": labels.all(),
                "User": USER,
                "WorkingDir": "/",
            },
            "created": labels.created,
            "history": [{
                "created": labels.created,
                "created_by": "cargo dev image",
            }],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }))
    }
}

/// Annotations that the OCI image specification defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// Version of the program.
    pub version: String,
    /// Commit that the program was built from; a debug build does not know it.
    pub revision: Option<String>,
    /// The time of the sources, as RFC 3339.
    pub created: String,
}

impl Labels {
    /// Reads the labels from the output of `--version`: `peerrelay 0.1.0 (commit 0123, ...)`.
    pub(super) fn of(said: &str, revision: &Revision) -> Result<Self> {
        let version = said
            .strip_prefix("peerrelay ")
            .with_context(|| format!("--version says '{said}'"))?;
        let (name, build) = version.split_once(' ').unwrap_or((version, ""));
        let commit = build
            .trim_start_matches('(')
            .strip_prefix("commit ")
            .and_then(|rest| rest.split(',').next());
        Ok(Self {
            version: name.to_owned(),
            revision: commit.map(str::to_owned),
            created: created(revision.epoch)?,
        })
    }

    /// All labels by their names.
    pub fn all(&self) -> BTreeMap<String, String> {
        let fixed = [
            ("title", "Peer Relay Operator"),
            ("description", DESCRIPTION),
            ("licenses", "Apache-2.0"),
            ("url", env!("CARGO_PKG_REPOSITORY")),
            ("documentation", env!("CARGO_PKG_REPOSITORY")),
            ("version", &self.version),
            ("created", &self.created),
        ];
        let revision = self.revision.iter().map(|commit| ("revision", &**commit));
        let named = fixed.into_iter().chain(revision);
        named
            .map(|(name, value)| (format!("org.opencontainers.image.{name}"), value.to_owned()))
            .collect()
    }
}

/// The description of the image, as in the root package and in the Dockerfile.
const DESCRIPTION: &str = "Kubernetes operator and embedded UDP relay for Tailscale peer relays";

/// Seconds since 1970 as RFC 3339 has them.
fn created(epoch: u64) -> Result<String> {
    let time = OffsetDateTime::from_unix_timestamp(epoch.try_into()?)?;
    let (hour, minute, second) = time.to_hms();
    Ok(format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
    ))
}

/// The architecture of this machine, as OCI names it.
pub fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no images are built for {other}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn labels_are_what_the_program_says() {
        let revision = Revision {
            commit: "0123456789ab".into(),
            epoch: 1_764_158_645,
        };
        let said = "peerrelay 1.2.3 (commit 0123456789ab, release build for x86_64-unknown)";
        let all = Labels::of(said, &revision).unwrap().all();
        let label = |name: &str| all.get(&format!("org.opencontainers.image.{name}"));
        assert_eq!(label("version").unwrap(), "1.2.3");
        assert_eq!(label("revision").unwrap(), "0123456789ab");
        assert_eq!(label("created").unwrap(), "2025-11-26T12:04:05Z");
        let debug = Labels::of("peerrelay 1.2.3 (debug build for x86_64)", &revision).unwrap();
        assert_eq!(debug.revision, None);
        Labels::of("peerrelay", &revision).unwrap_err();
    }
}
