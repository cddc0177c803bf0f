//! Compiles the kernel program with clang, and collects the build information for `--version`.
//!
//! Without clang, the relay is built without the kernel program. It then logs this at the start and
//! forwards through sockets (docs/decisions/0008).

use std::{env, ffi::OsString, fs, io, path::PathBuf, process::Command};

const SOURCE: &str = "src/relay/kernel/relay.bpf.c";
const HEADERS: [&str; 3] = [
    "src/relay/kernel/bpf.h",
    "src/relay/kernel/maps.bpf.h",
    "src/relay/kernel/packet.bpf.h",
];

/// File into which `git archive` writes the commit.
const ARCHIVED: &str = ".git_archival.txt";
/// Number of digits of a commit that are shown.
const DIGITS: usize = 12;

fn main() {
    println!("cargo::rustc-env=PEERRELAY_BUILD={}", build());
    compile_kernel_program();
}

/// Returns the commit, the profile and the target.
fn build() -> String {
    println!("cargo::rerun-if-env-changed=PEERRELAY_COMMIT");
    let variable = |name| env::var(name).unwrap_or_default();
    let client = match env::var_os("CARGO_FEATURE_RELAY") {
        Some(_) => "",
        None => ", client commands only",
    };
    let (profile, target) = (variable("PROFILE"), variable("TARGET"));
    let kind = format!("{profile} build for {target}{client}");
    let given = Some(variable("PEERRELAY_COMMIT")).filter(|commit| !commit.is_empty());
    // A debug build is not recompiled only because of a new commit.
    let commit = given.or_else(|| match profile.as_str() {
        "release" => repository_commit().or_else(archived_commit),
        _ => None,
    });
    match commit {
        Some(commit) => format!("commit {commit}, {kind}"),
        None => kind,
    }
}

/// Returns the commit that is checked out, with a suffix if files differ from it.
fn repository_commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    // The source tree may be inside another repository.
    let root = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?);
    let here = env::current_dir().ok()?.canonicalize().ok()?;
    if root.canonicalize().ok()? != here {
        return None;
    }
    for path in ["src", "crates", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!(
        "cargo::rerun-if-changed={}",
        git(&["rev-parse", "--git-path", "logs/HEAD"])?
    );
    let commit = git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed {
        format!("{commit}-dirty")
    } else {
        commit
    })
}

/// Returns the commit of a source archive.
fn archived_commit() -> Option<String> {
    println!("cargo::rerun-if-changed={ARCHIVED}");
    let text = fs::read_to_string(ARCHIVED).ok()?;
    let commit = text
        .lines()
        .find_map(|line| line.strip_prefix("commit: "))?;
    let is_commit = commit.len() >= DIGITS && commit.bytes().all(|b| b.is_ascii_hexdigit());
    is_commit.then(|| commit[..DIGITS].to_owned())
}

fn compile_kernel_program() {
    println!("cargo::rustc-check-cfg=cfg(kernel_program)");
    if env::var_os("CARGO_FEATURE_RELAY").is_none() {
        return;
    }
    for path in [SOURCE].into_iter().chain(HEADERS) {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let object = PathBuf::from(out).join("relay.bpf.o");
    let clang = env::var_os("CLANG");
    let named = clang.is_some();
    let clang = clang.unwrap_or_else(|| OsString::from("clang"));
    let compiled = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf"])
        // The object contains the path of its source, which must not depend on the directory.
        .arg("-fdebug-compilation-dir=.")
        .args(["-c", SOURCE, "-o"])
        .arg(&object)
        .status();
    match compiled {
        Ok(status) if status.success() => println!("cargo::rustc-cfg=kernel_program"),
        Ok(_) => {
            panic!("clang failed to compile {SOURCE}: see above (clang 14 or later is needed)")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => {
            println!(
                "cargo::warning=clang is not installed: the relay is built without its kernel data \
                 path; install clang and build again"
            );
            // Detects clang after it has been installed.
            println!("cargo::rerun-if-changed=/usr/bin");
            fs::remove_file(&object).ok();
        }
        Err(error) => panic!("failed to run clang ({}): {error}", clang.display()),
    }
}
