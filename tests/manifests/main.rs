//! Generated files are up to date. `UPDATE=1 cargo test --test manifests` regenerates them.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod argocd;
mod chart;
mod chart_readme;
mod chart_values;
mod corpus;
mod credentials;
#[path = "../common/fed.rs"]
mod fed;
mod import;
mod kustomize;
mod metrics;
mod monitoring;
mod output;
mod values;

use std::{fs, path::Path, sync::Once};

use peerrelay::{
    check::Fault,
    crd::{self, PeerRelay, relay_reason::RelayReason},
    operator::{
        credential, policy_sync,
        status::{self, pods::Trouble},
    },
    relay::kernel::UnavailableReason,
};
use serde::Deserialize;

/// Directories of the definitions: for kubectl and for the chart.
const CRD_DIRS: [&str; 2] = ["crds", "charts/peerrelay-operator/crds-source"];

#[test]
fn custom_resource_definitions_are_what_the_types_say() {
    for (path, text) in definitions() {
        assert!(
            text.len() < 100_000,
            "{path} is too large for client-side apply"
        );
        hold(&path, &text);
    }
}

/// Returns each definition with its path.
fn definitions() -> impl Iterator<Item = (String, String)> {
    crd::all().into_iter().flat_map(|definition| {
        let name = definition.metadata.name.clone().unwrap();
        let text = crd::document(&definition);
        CRD_DIRS.map(|dir| (format!("{dir}/{name}.yaml"), text.clone()))
    })
}

#[test]
fn every_reason_is_documented() {
    let text = fs::read_to_string(root().join("docs/conditions.md")).unwrap();
    let relay = RelayReason::ALL.iter().map(|reason| reason.as_str());
    let operator = status::REASONS.iter().copied();
    let pods = Trouble::ALL.iter().map(|trouble| trouble.as_str());
    let credentials = credential::REASONS.iter().copied();
    let policy = policy_sync::REASONS.iter().copied();
    let all = relay.chain(operator).chain(pods).chain(credentials);
    let shown = |reason: &&UnavailableReason| **reason != UnavailableReason::Chosen;
    let data_path = UnavailableReason::ALL.iter().filter(shown);
    let data_path = data_path.map(|reason| reason.as_str());
    for reason in all.chain(policy).chain(data_path) {
        assert!(
            text.contains(&format!("| `{reason}` |")),
            "docs/conditions.md lacks {reason}"
        );
    }
}

#[test]
fn every_fault_of_the_check_is_documented() {
    let text = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    for fault in Fault::ALL {
        let row = format!("| `{}` |", fault.as_str());
        assert!(text.contains(&row), "docs/cli.md lacks {row}");
    }
}

#[test]
fn examples_are_what_the_operator_understands() {
    let mut found = 0;
    for entry in fs::read_dir(root().join("deploy/examples")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let value = serde_yaml::Value::deserialize(document).unwrap();
            if value["kind"] == "PeerRelay" {
                let relay: PeerRelay = serde_yaml::from_value(value).unwrap();
                assert!(!relay.spec.regions.is_empty());
                found += 1;
            }
        }
    }
    assert!(found > 0, "there is no example");
}

/// Fails unless the file has the wanted content. Writes it if `UPDATE` is set.
fn hold(path: &str, wanted: &str) {
    update_sources();
    update(path, wanted);
    let file = root().join(path);
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == wanted,
        "{path} is not up to date: UPDATE=1 cargo test --test manifests"
    );
}

/// Writes the sources of other generated files if `UPDATE` is set. helm and promtool read them in
/// other tests, so this happens once, before any test reads them.
fn update_sources() {
    static WRITTEN: Once = Once::new();
    WRITTEN.call_once(|| {
        let schema = (values::SCHEMA.to_owned(), values::schema());
        let sources = definitions().chain(monitoring::files()).chain([schema]);
        for (path, text) in sources {
            update(&path, &text);
        }
    });
}

/// Writes the file if `UPDATE` is set and its content differs. Other tests may be reading it.
fn update(path: &str, wanted: &str) {
    let file = root().join(path);
    let asked = std::env::var_os("UPDATE").is_some();
    if asked && fs::read_to_string(&file).ok().as_deref() != Some(wanted) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, wanted).unwrap();
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
