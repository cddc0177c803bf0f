//! The workflows of `.github/workflows`: linted by actionlint, and held to rules of our own.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{find, program, run},
    progress::Progress,
    state::repository,
    tools::Tools,
};

/// Lints every workflow; scripts in them, too, where shellcheck is installed.
pub fn check(progress: &Progress) -> Result<()> {
    let tools = Tools::build_only("actionlint", progress)?;
    let files = files()?;
    let mut lint = program(tools.program("actionlint"));
    lint.args(["-pyflakes=", "-no-color"]).args(&files);
    let with = match find("shellcheck".as_ref()) {
        Some(_) => "with shellcheck",
        None => "without shellcheck, which is not installed",
    };
    run(&mut lint)?;
    for file in &files {
        let text = fs::read_to_string(file)?;
        rules(&text).with_context(|| file.display().to_string())?;
    }
    progress.line(format_args!("{} workflows linted, {with}", files.len()));
    Ok(())
}

fn files() -> Result<Vec<PathBuf>> {
    let directory = repository().join(".github/workflows");
    let mut files = fs::read_dir(&directory)
        .with_context(|| format!("failed to list {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    files.sort();
    ensure!(!files.is_empty(), "there are no workflows");
    Ok(files)
}

/// Actions are pinned by hash, jobs may read only unless they say what for, and all of them end.
fn rules(workflow: &str) -> Result<()> {
    for line in workflow.lines() {
        let Some((_, action)) = line.split_once("uses: ") else {
            continue;
        };
        let (reference, version) = action
            .split_once(" # v")
            .with_context(|| format!("{action} has no comment with its version"))?;
        let hash = reference.split_once('@').map_or("", |(_, hash)| hash);
        let is_hash = hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_hash, "{action} is not pinned by hash");
        ensure!(!version.is_empty(), "{action} does not say its version");
    }
    ensure!(
        workflow.contains("\npermissions:\n  contents: read\n\n"),
        "without a job's own permissions, a job may only read the repository"
    );
    for line in workflow
        .lines()
        .filter(|line| line.ends_with(": write") || line.contains(": write "))
    {
        ensure!(
            line.starts_with("      ") && line.contains(" # "),
            "'{}' belongs to the job that needs it, with the reason",
            line.trim()
        );
    }
    let jobs = workflow.matches("    runs-on: ").count();
    ensure!(
        workflow.matches("    timeout-minutes: ").count() == jobs,
        "every job has a timeout-minutes"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const GOOD: &str = "on: push\n\npermissions:\n  contents: read\n\njobs:\n  a:\n    runs-on: x\n    \
                        timeout-minutes: 1\n    permissions:\n      packages: write # the image\n    \
                        steps:\n      - uses: a/b@0123456789012345678901234567890123456789 # v1.0.0\n";

    #[test]
    fn workflows_keep_the_rules() {
        for file in files().unwrap() {
            rules(&fs::read_to_string(&file).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        rules(GOOD).unwrap();
        let broken = [
            (
                "@0123456789012345678901234567890123456789 # v1.0.0",
                "@v1 # v1",
            ),
            (" # v1.0.0", ""),
            (
                "permissions:\n  contents: read\n",
                "permissions: write-all\n",
            ),
            (" # the image", ""),
            ("    timeout-minutes: 1\n", ""),
        ];
        for (from, to) in broken {
            rules(&GOOD.replace(from, to)).unwrap_err();
        }
    }
}
