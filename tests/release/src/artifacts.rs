//! The files of a release.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, run},
    image::{self, Built, architecture},
    state::repository,
    tools::Tools,
};

use super::{CHECKSUMS, VERSION, krew::ClientArchive};

/// Beginning of the names of command line archives.
const CLIENT: &str = "peerrelay_";
/// The name of the chart.
pub(super) const CHART: &str = "peerrelay-operator";

/// Archive, layout and bill of materials, with the architecture in their names.
pub(super) fn image(built: &Built, output: &Path) -> Result<()> {
    image::write(built, output)?;
    let architecture = architecture()?;
    let names = [
        (
            image::ARCHIVE,
            format!("image_{VERSION}_linux_{architecture}.tar"),
        ),
        (
            image::LAYOUT,
            format!("image_{VERSION}_linux_{architecture}"),
        ),
        (
            image::SBOM,
            format!("sbom_{VERSION}_linux_{architecture}.cdx.json"),
        ),
    ];
    for (from, to) in names {
        fs::rename(output.join(from), output.join(to))?;
    }
    Ok(())
}

/// The program for hosts: client commands, and a relay without Kubernetes.
pub(super) fn client(built: &Built, output: &Path) -> Result<()> {
    let root = repository();
    let name = format!("{CLIENT}{VERSION}_linux_{}.tar.gz", architecture()?);
    let files = [
        ("peerrelay", built.program.clone(), 0o755),
        ("LICENSE", root.join("LICENSE"), 0o644),
        ("CHANGELOG.md", root.join("CHANGELOG.md"), 0o644),
        (
            "peerrelay.service",
            root.join("deploy/systemd/peerrelay.service"),
            0o644,
        ),
    ];
    let mut tar = tar::Builder::new(Vec::new());
    for (name, path, mode) in files {
        let content =
            fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let mut header = image::entry(built.epoch, mode, content.len() as u64);
        tar.append_data(&mut header, name, &content[..])?;
    }
    fs::write(output.join(name), image::compress(&tar.into_inner()?)?)?;
    Ok(())
}

/// The custom resource definitions alone, and everything in one file.
pub(super) fn manifests(built: &Built, image: &str, output: &Path) -> Result<()> {
    let definitions = run(program(&built.program).arg("crd"))?;
    fs::write(output.join("crds.yaml"), definitions)?;
    let install = fs::read_to_string(repository().join("deploy/install.yaml"))?;
    let install = with_image(&install, image)?;
    fs::write(output.join("install.yaml"), install)?;
    Ok(())
}

/// Names the image of a release in the manifest, whose containers all have it.
fn with_image(manifest: &str, image: &str) -> Result<String> {
    let mut found = 0;
    let lines = manifest.lines().map(|line| {
        let indent = line.len() - line.trim_start().len();
        // Containers name images; definitions have a field of that name, without a value.
        if !line.trim_start().starts_with("image: ") {
            return line.to_owned();
        }
        found += 1;
        format!("{:indent$}image: {image}", "")
    });
    let text = lines.collect::<Vec<_>>().join("\n") + "\n";
    ensure!(
        found == 1,
        "deploy/install.yaml has {found} images, and one was expected"
    );
    Ok(text)
}

/// The chart as `helm push` and `helm install` take it, with the image's name as default if it is
/// published.
pub(super) fn chart(tools: &Tools, image: &str, output: &Path) -> Result<()> {
    let staging = tempfile::tempdir()?;
    let chart = staging.path().join(CHART);
    let source = repository().join("charts").join(CHART);
    run(program("cp").arg("-r").arg(source).arg(&chart))?;
    if image != image::DEFAULT_NAME {
        let values = chart.join("values.yaml");
        fs::write(
            &values,
            with_repository(&fs::read_to_string(&values)?, image)?,
        )?;
    }
    let mut helm = program(tools.program("helm"));
    helm.arg("package")
        .arg(chart)
        .args(["--version", VERSION, "--app-version", VERSION])
        .arg("--destination")
        .arg(output);
    run(&mut helm)?;
    Ok(())
}

/// Sets `image.repository` in the values and keeps their comments.
fn with_repository(values: &str, image: &str) -> Result<String> {
    let (before, section) = values
        .split_once("\nimage:\n")
        .context("values.yaml has no section image")?;
    let (above, line) = section
        .split_once("  repository: ")
        .context("values.yaml has no image.repository")?;
    let below = line.split_once('\n').map_or("", |(_, below)| below);
    Ok(format!(
        "{before}\nimage:\n{above}  repository: {image}\n{below}"
    ))
}

/// Command line archives in a directory, in the order of their names.
pub(super) fn client_archives(output: &Path) -> Result<Vec<ClientArchive>> {
    let names = files(output)?;
    let archives = names
        .into_iter()
        .filter(|name| name.starts_with(CLIENT) && name.ends_with(".tar.gz"));
    archives
        .map(|name| {
            let sha256 = sha256(&output.join(&name))?;
            Ok(ClientArchive { name, sha256 })
        })
        .collect()
}

/// Lines as `sha256sum -c` reads them.
pub(super) fn checksums(output: &Path) -> Result<String> {
    let names = files(output)?;
    let lines = names
        .iter()
        .filter(|name| *name != CHECKSUMS)
        .map(|name| Ok(format!("{}  {name}\n", sha256(&output.join(name))?)));
    lines.collect()
}

/// Names of the files of a directory, in order; layouts are left to their archives.
fn files(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn sha256(path: &Path) -> Result<String> {
    let content = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
    Ok(image::digest(&content).replace("sha256:", ""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn released_chart_and_manifest_name_the_image() {
        let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
        let values = read("charts/peerrelay-operator/values.yaml");
        let changed = with_repository(&values, "registry.example.net/p").unwrap();
        let changed: serde_json::Value = serde_yaml::from_str(&changed).unwrap();
        let mut own: serde_json::Value = serde_yaml::from_str(&values).unwrap();
        own["image"]["repository"] = "registry.example.net/p".into();
        assert_eq!(changed, own);
        let manifest =
            with_image(&read("deploy/install.yaml"), "registry.example.net/p:1").unwrap();
        assert_eq!(
            manifest
                .matches("image: registry.example.net/p:1\n")
                .count(),
            1
        );
    }
}
