//! The product is the same for every architecture: nothing in it is written for one of them.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use rig::{
    command::{find, program, run},
    state::repository,
};

/// Words of code that is written for one architecture.
const OF_ONE: [&str; 9] = [
    "target_arch",
    "core::arch::",
    "std::arch::",
    "asm!",
    "_mm_",
    "__TARGET_ARCH",
    "__x86_64__",
    "__aarch64__",
    "target_feature(",
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            _ if path.is_dir() => sources(&path, found),
            Some("rs" | "c" | "h") => found.push(path),
            _ => {}
        }
    }
}

#[test]
fn no_source_is_written_for_one_architecture() {
    let root = repository();
    let mut found = vec![root.join("build.rs")];
    for directory in ["src", "crates"] {
        sources(&root.join(directory), &mut found);
    }
    assert!(found.len() > 100, "sources are elsewhere");
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        for word in OF_ONE {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
        let includes = text.lines().filter(|line| line.starts_with("#include <"));
        assert_eq!(
            includes.count(),
            0,
            "{} has a header of the machine",
            path.display()
        );
    }
}

#[test]
fn kernel_program_is_the_same_for_every_architecture() {
    if find("clang".as_ref()).is_none() {
        skips::record("clang is not installed");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let compile = |architecture: &str, others: &[&str]| {
        let object = directory.path().join(architecture);
        let mut clang = program("clang");
        // As build.rs does it.
        clang
            .current_dir(repository())
            .args(["-O2", "-g", "-target", "bpf", "-fdebug-compilation-dir=."])
            .arg(format!("-D__TARGET_ARCH_{architecture}"))
            .args(others)
            .args(["-c", "src/relay/kernel/relay.bpf.c", "-o"])
            .arg(&object);
        run(&mut clang).unwrap();
        fs::read(object).unwrap()
    };
    let x86 = compile("x86", &["-D__x86_64__"]);
    assert!(x86 == compile("arm64", &["-D__aarch64__"]));
    // A difference would be seen.
    assert!(x86 != compile("other", &["-O1"]));
}
