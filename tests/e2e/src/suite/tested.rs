//! The page `docs/tested.md`: what was run, when, and with which versions.

mod page;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rig::{
    command::{program, query},
    state::repository,
};
use time::OffsetDateTime;

use self::page::{Environment, Page, Row};
use super::{Outcome, Versions, runner};
use crate::scenarios;

const PAGE: &str = "docs/tested.md";
/// Outcomes of the runs of this machine since the page was written; the same text as the page.
const RECORD: &str = "target/tested.md";

/// Records the outcomes of a run on this machine, in place of earlier ones of the same sentences.
pub(super) fn record(outcomes: &[Outcome], versions: Versions) -> Result<()> {
    let path = repository().join(RECORD);
    let mut recorded = read(&path)?;
    let (date, environment) = (today(), environment(versions)?);
    for outcome in outcomes {
        recorded.rows.insert(
            outcome.name.clone(),
            Row {
                passed: outcome.passed,
                date: date.clone(),
                environment: environment.clone(),
            },
        );
    }
    write(&path, &recorded)
}

/// Writes the page from the outcomes that were recorded, and from those that it has. Says how many sentences
/// have an outcome.
pub fn write_page() -> Result<String> {
    let path = repository().join(PAGE);
    let mut page = read(&path)?;
    page.rows.extend(read(&repository().join(RECORD))?.rows);
    let scenarios = scenarios::all();
    let names = scenarios.iter().map(|scenario| scenario.name);
    let names: Vec<_> = names
        .chain(runner::CHECKS.iter().map(|check| check.name))
        .collect();
    page.rows.retain(|name, _| names.contains(&name.as_str()));
    write(&path, &page)?;
    Ok(format!(
        "{} of {} sentences have an outcome in {PAGE}",
        page.rows.len(),
        names.len()
    ))
}

fn read(path: &Path) -> Result<Page> {
    match fs::read_to_string(path) {
        Ok(text) => {
            Page::parse(&text).with_context(|| format!("failed to read {}", path.display()))
        }
        Err(_) => Ok(Page {
            rows: BTreeMap::new(),
        }),
    }
}

fn write(path: &Path, page: &Page) -> Result<()> {
    fs::write(path, page.to_string()).with_context(|| format!("failed to write {}", path.display()))
}

fn today() -> String {
    let now = OffsetDateTime::now_utc();
    format!(
        "{}-{:02}-{:02}",
        now.year(),
        u8::from(now.month()),
        now.day()
    )
}

/// The versions of what a rig runs on this machine.
fn environment(versions: Versions) -> Result<Environment> {
    let kubernetes = match versions.oldest {
        true => "kubernetes-oldest",
        false => "kubernetes",
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let containerd = query(program("containerd").arg("--version"))?;
    let containerd = containerd.split_whitespace().nth(2).unwrap_or_default();
    Ok(Environment {
        // What follows is the name of a build.
        kernel: kernel
            .trim()
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned(),
        kubernetes: required(kubernetes, "k8s.io/kubernetes")?,
        containerd: containerd.to_owned(),
        tailscale: required("tailnet", "tailscale.com")?,
        build: format!("{:?}", versions.profile()).to_lowercase(),
    })
}

/// The version of a module that a tool of the rig requires.
fn required(tool: &str, module: &str) -> Result<String> {
    let file: PathBuf = rig::tools::source(tool).join("go.mod");
    let text = fs::read_to_string(&file)?;
    let version = text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix(module)?
            .strip_prefix(" v")?
            .split(' ')
            .next()
    });
    let version = version.with_context(|| format!("{} has no {module}", file.display()))?;
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_command_writes() {
        let text = fs::read_to_string(repository().join(PAGE)).expect("the page exists");
        let page = Page::parse(&text).expect("the page is as the command writes it");
        assert_eq!(page.to_string(), text, "run `cargo dev tested`");
    }

    #[test]
    fn versions_are_those_that_the_tools_require() {
        for (tool, module) in [
            ("kubernetes", "k8s.io/kubernetes"),
            ("kubernetes-oldest", "k8s.io/kubernetes"),
            ("tailnet", "tailscale.com"),
        ] {
            let version = required(tool, module).expect("it is required");
            assert!(version.starts_with("1."), "{tool}: {version}");
        }
    }
}
