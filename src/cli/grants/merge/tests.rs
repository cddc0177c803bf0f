#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
};

use clap::Parser;
use tempfile::TempDir;

use super::*;

const RELAY: &str = "apiVersion: peerrelay.dev/v1alpha1
kind: PeerRelay
metadata: {name: edge, namespace: relays}
spec:
  tailnet: {authKey: {secretName: tailnet-auth}}
  regions: [{name: office, clients: [\"tag:office\"]}]
";
const POLICY: &str = "{\n  \"grants\": [\n    {\"src\": [\"a\"], \"dst\": [\"b\"], \"ip\": [\"*\"]} // ours\n  ]\n}\n";

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    merge: MergeArgs,
}

#[test]
fn a_file_is_replaced_with_its_mode_through_its_link_and_then_left_alone() {
    let dir = directory();
    let path = dir.path().join("policy.hujson");
    let link = dir.path().join("link.hujson");
    symlink("policy.hujson", &link).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(
        code(run(&dir, "link.hujson", &["--check"])),
        ExitCode::from(3)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), POLICY);
    assert_eq!(code(run(&dir, "link.hujson", &[])), ExitCode::SUCCESS);
    let merged = fs::metadata(&path).unwrap();
    assert_eq!(merged.permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .contains("tag:relay-office")
    );
    assert_eq!(
        code(run(&dir, "policy.hujson", &["--check"])),
        ExitCode::SUCCESS
    );
    run(&dir, "policy.hujson", &[]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), merged.ino());
    assert_eq!(names(&dir), ["link.hujson", "policy.hujson", "relay.yaml"]);
}

#[test]
fn another_file_is_written_on_request() {
    let dir = directory();
    let output = dir.path().join("out.hujson");
    let output = output.to_str().unwrap();
    run(&dir, "policy.hujson", &["--output", output]).unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("policy.hujson")).unwrap(),
        POLICY
    );
    assert!(
        fs::read_to_string(output)
            .unwrap()
            .contains("tag:relay-office")
    );
}

#[test]
fn every_truncation_is_refused_and_leaves_the_file_as_it_was() {
    let dir = directory();
    let path = dir.path().join("policy.hujson");
    for end in 0..POLICY.len() - 1 {
        fs::write(&path, &POLICY[..end]).unwrap();
        let before = fs::metadata(&path).unwrap();
        let error = run(&dir, "policy.hujson", &[]).expect_err(&POLICY[..end]);
        let place = format!("{}:", path.display());
        assert!(error.to_string().starts_with(&place), "{error}");
        let after = fs::metadata(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), POLICY[..end]);
        assert_eq!(
            (after.ino(), after.mtime_nsec()),
            (before.ino(), before.mtime_nsec())
        );
    }
    assert_eq!(names(&dir), ["policy.hujson", "relay.yaml"]);
}

#[test]
fn a_file_that_changes_meanwhile_is_not_overwritten() {
    let dir = directory();
    let path = dir.path().join("policy.hujson");
    let error = file::replace(&path, "{}\n", Some(b"other")).unwrap_err();
    assert!(
        error.to_string().contains("changed by another program"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), POLICY);
    let error = file::replace(dir.path(), "{}\n", None).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    assert_eq!(names(&dir), ["policy.hujson", "relay.yaml"]);
}

fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("relay.yaml"), RELAY).unwrap();
    fs::write(dir.path().join("policy.hujson"), POLICY).unwrap();
    dir
}

fn run(dir: &TempDir, policy: &str, more: &[&str]) -> anyhow::Result<ExitCode> {
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (policy, relay) = (path(policy), path("relay.yaml"));
    let words = ["merge", &policy, "-f", &relay];
    Program::parse_from(words.into_iter().chain(more.iter().copied()))
        .merge
        .run()
}

fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap()
}

fn names(dir: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(dir.path()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}
