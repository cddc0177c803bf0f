//! Manifests that `peerrelay validate` judges, in front of the API server.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, run},
    deployment::Deployment,
    names::NAMESPACE,
};

use super::{Scenario, vacant};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "the API server and peerrelay validate agree on every manifest of the corpus",
        run: corpus,
    }]
}

/// Sends each manifest to the API server and to the program. A test without a cluster compares the program's
/// verdict with the name of the file.
fn corpus(deployment: &Deployment<'_>) -> Result<String> {
    // A manifest with the name of an existing object would be refused for that reason.
    vacant(deployment)?;
    let directory = rig::state::repository().join("tests/manifests/corpus");
    let binary = deployment.rig.program()?;
    let mut files: Vec<_> = fs::read_dir(&directory)?.collect::<Result<_, _>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().to_string_lossy().into_owned();
        let (verdict, _) = name.split_once('-').context("a manifest has no verdict")?;
        let by_server = create(deployment, &file.path());
        let by_program = run(program(&binary).arg("validate").arg("-f").arg(file.path()));
        let expected = (verdict != "refused", verdict == "accepted");
        if (by_server.is_ok(), by_program.is_ok()) != expected {
            let said = |result: Result<String>| match result {
                Ok(_) => "accepted".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            wrong.push(format!(
                "{name}\n  API server: {}\n  validate: {}",
                said(by_server),
                said(by_program)
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(format!("{} manifests", files.len()))
}

/// Creates the objects of a file in a dry run.
fn create(deployment: &Deployment<'_>, file: &Path) -> Result<String> {
    let mut kubectl = deployment.rig.kubectl_command();
    kubectl.args([
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-n",
        NAMESPACE,
        "-f",
    ]);
    run(kubectl.arg(file))
}
