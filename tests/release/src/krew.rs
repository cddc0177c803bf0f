//! The manifest with which krew installs `kubectl peer-relay`.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// A command line archive: `peerrelay_0.1.0_linux_amd64.tar.gz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientArchive {
    /// The name of the archive.
    pub(super) name: String,
    /// Checksum in hex.
    pub(super) sha256: String,
}

impl ClientArchive {
    /// Operating system and architecture in Go's words.
    fn platform(&self) -> Option<(&str, &str)> {
        let stem = self.name.strip_suffix(".tar.gz")?;
        let mut parts = stem.rsplit('_');
        let architecture = parts.next()?;
        Some((parts.next()?, architecture))
    }
}

/// The manifest in YAML.
pub(super) fn manifest(version: &str, url: &str, archives: &[ClientArchive]) -> Result<String> {
    let platforms = archives
        .iter()
        .map(|archive| platform(version, url, archive))
        .collect::<Result<Vec<_>>>()?;
    let manifest = json!({
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "peer-relay"},
        "spec": {
            "version": format!("v{version}"),
            "homepage": env!("CARGO_PKG_REPOSITORY"),
            "shortDescription": "Check, configure and inspect Tailscale peer relays",
            "description": "Prints what tailnet policies and firewalls need for PeerRelays, and \
                checks manifests as the API server and the Peer Relay Operator do.",
            "platforms": platforms,
        },
    });
    Ok(serde_yaml::to_string(&manifest)?)
}

fn platform(version: &str, url: &str, archive: &ClientArchive) -> Result<Value> {
    let (os, architecture) = archive
        .platform()
        .with_context(|| format!("{} names no platform", archive.name))?;
    Ok(json!({
        "selector": {"matchLabels": {"os": os, "arch": architecture}},
        "uri": format!("{url}/v{version}/{}", archive.name),
        "sha256": archive.sha256,
        "bin": "peerrelay",
        "files": [{"from": "peerrelay", "to": "."}, {"from": "LICENSE", "to": "."}],
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn every_archive_is_a_platform() {
        let archive = |platform: &str| ClientArchive {
            name: format!("peerrelay_1.2.3_{platform}.tar.gz"),
            sha256: "ab".repeat(32),
        };
        let archives = [archive("linux_amd64"), archive("darwin_arm64")];
        let yaml = manifest("1.2.3", "https://r.example.net", &archives).unwrap();
        let read: Value = serde_yaml::from_str(&yaml).unwrap();
        let platforms = &read["spec"]["platforms"];
        assert_eq!(
            platforms[1]["selector"]["matchLabels"],
            json!({"os": "darwin", "arch": "arm64"})
        );
        assert_eq!(
            platforms[0]["uri"],
            "https://r.example.net/v1.2.3/peerrelay_1.2.3_linux_amd64.tar.gz"
        );
        let short = read["spec"]["shortDescription"].as_str().unwrap();
        assert!(short.len() <= 50, "krew's guide: 50 characters at most");
    }
}
