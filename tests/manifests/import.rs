//! `peerrelay import`: results for a corpus of objects and hosts, which are in `import/`.
//!
//! `NAME.in.yaml` is the input. `NAME.yaml` and `NAME.txt` are standard output and standard error,
//! which `UPDATE=1` writes.

use std::{
    fs,
    process::{Command, Output},
};

use super::{fed::fed, hold, root};

const DIRECTORY: &str = "tests/manifests/import";

#[test]
fn corpus_is_converted_to_valid_objects_with_a_note_for_each_difference() {
    let mut found = 0;
    let mut all = String::new();
    for entry in fs::read_dir(root().join(DIRECTORY)).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".in.yaml") else {
            continue;
        };
        found += 1;
        let input = format!("{DIRECTORY}/{file}");
        let output = run(&["import", "-f", &input], "");
        let yaml = String::from_utf8(output.stdout).unwrap();
        let notes = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{input}: {notes}");
        hold(&format!("{DIRECTORY}/{name}.yaml"), &yaml);
        hold(&format!("{DIRECTORY}/{name}.txt"), &notes);
        all += &yaml;
        for secret in ["hunter2", "privkey:"] {
            assert!(!notes.contains(secret), "{input} tells a value: {notes}");
        }
    }
    assert!(found >= 8, "{found} inputs");
    let validated = run(&["validate", "-f", "-"], &all);
    let said = String::from_utf8_lossy(&validated.stderr);
    assert!(validated.status.success(), "{said}");
}

#[test]
fn strict_fails_if_a_setting_is_not_kept() {
    for (name, kept) in [("smallest", true), ("unknown-fields", false)] {
        let input = format!("{DIRECTORY}/{name}.in.yaml");
        let output = run(&["import", "--strict", "-f", &input], "");
        assert_eq!(output.status.success(), kept, "{name}");
        assert!(!output.stdout.is_empty(), "{name}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("not kept"), !kept, "{said}");
    }
}

#[test]
fn results_are_written_to_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("relays.yaml");
    let input = format!("{DIRECTORY}/smallest.in.yaml");
    let output = run(&["import", "-f", &input, "-o", file.to_str().unwrap()], "");
    assert!(output.status.success() && output.stdout.is_empty());
    let printed = run(&["import", "-f", &input], "").stdout;
    assert_eq!(fs::read(file).unwrap(), printed);
}

#[test]
fn input_without_relays_is_an_error_that_names_the_command() {
    for input in ["kind: ConfigMap\napiVersion: v1\n", "{}", "just text"] {
        let output = run(&["import", "-f", "-"], input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("ignored") && said.contains("tailscale debug prefs"),
            "{said}"
        );
    }
}

fn run(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    command
        .args(arguments)
        .current_dir(root())
        .env("KUBECONFIG", "/nonexistent");
    fed(&mut command, input)
}
