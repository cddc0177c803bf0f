//! PeerRelays from files, for commands that need no cluster.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_yaml::{Deserializer, Value};

use crate::{
    crd::PeerRelay,
    operator::validate::{RelayImage, ValidatedRelay, validate},
};

/// Read from standard input.
const STDIN: &str = "-";
/// Namespace of an object that names none, as kubectl has it.
const NAMESPACE: &str = "default";

/// Reads every PeerRelay of the files, checked as the operator does; other kinds are passed over.
///
/// # Errors
/// A file cannot be read, something in it is wrong, or there is no PeerRelay at all.
pub(super) fn read(files: &[PathBuf]) -> anyhow::Result<Vec<ValidatedRelay>> {
    let mut relays = Vec::new();
    for file in files {
        let shown = file.display();
        let text = text(file).with_context(|| format!("failed to read {shown}"))?;
        for document in Deserializer::from_str(&text) {
            let document =
                Value::deserialize(document).with_context(|| format!("{shown} is not YAML"))?;
            collect(document, &mut relays).with_context(|| format!("failed to use {shown}"))?;
        }
    }
    ensure!(
        !relays.is_empty(),
        "there is no PeerRelay in {}: give a file as kubectl apply takes it",
        files
            .iter()
            .map(|f| f.display().to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    Ok(relays)
}

fn text(file: &Path) -> io::Result<String> {
    if file == Path::new(STDIN) {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(file)
}

fn collect(document: Value, relays: &mut Vec<ValidatedRelay>) -> anyhow::Result<()> {
    let kind = document["kind"].as_str().unwrap_or_default();
    if kind == "PeerRelay" {
        relays.push(relay(document)?);
    } else if kind.ends_with("List")
        && let Some(items) = document["items"].as_sequence()
    {
        for item in items {
            collect(item.clone(), relays)?;
        }
    }
    Ok(())
}

fn relay(document: Value) -> anyhow::Result<ValidatedRelay> {
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    let shown = format!("PeerRelay {name}");
    let mut unknown = Vec::new();
    let note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let mut relay: PeerRelay = serde_ignored::deserialize(document, note)
        .with_context(|| format!("{shown} is not what the definition says"))?;
    // What is not of the spec is the cluster's own to write.
    unknown.retain(|field| field.starts_with("spec."));
    if let Some(field) = unknown.first() {
        bail!("{shown} has an unknown field {field}: correct or remove it");
    }
    relay
        .metadata
        .namespace
        .get_or_insert_with(|| NAMESPACE.into());
    relay.metadata.uid.get_or_insert_default();
    // No command without a cluster shows it.
    let image = RelayImage {
        reference: String::new(),
        pull_policy: String::new(),
    };
    validate(&relay, &image).with_context(|| format!("{shown} cannot be used"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const SMALLEST: &str = "
apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: edge}
spec:
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions: [{name: office, clients: ['tag:office']}]
";

    #[test]
    fn defaults_are_filled_in_and_other_kinds_passed_over() {
        let list = "kind: List\nitems:\n- kind: ConfigMap\n- ".to_owned()
            + SMALLEST.trim().replace('\n', "\n  ").as_str();
        for text in [format!("kind: Namespace\n---{SMALLEST}---\n"), list] {
            let relays = from(&text).unwrap();
            assert_eq!((relays.len(), relays[0].port), (1, 40_000));
            assert_eq!(relays[0].regions[0].tag, "tag:relay-office");
            assert_eq!(relays[0].namespace, "default");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from_text, to, says) in [
            ("secretName", "secretname", "secretName"),
            ("spec:", "spec:\n  prot: 1", "unknown field spec.prot"),
            ("tag:office", "tag:office:22", "clients have no port"),
            (
                "clients:",
                "tag: '*', clients:",
                "every device of the tailnet would become a relay",
            ),
            ("PeerRelay", "Peerrelay", "there is no PeerRelay"),
            ("tag:office", "tag:relay-office", "set selfRelay instead"),
        ] {
            let error = from(&SMALLEST.replace(from_text, to)).unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    fn from(text: &str) -> anyhow::Result<Vec<ValidatedRelay>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read(&[file.path().into()])
    }
}
