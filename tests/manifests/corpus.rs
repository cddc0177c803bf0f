//! Manifests of the corpus, checked with `peerrelay validate`. The beginning of a file's name is
//! the expected result: `accepted`, `refused` by the API server, or refused by the `operator`
//! alone. A scenario sends the same files to a real API server.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

use super::fed::fed;

#[test]
fn the_corpus_is_judged_as_its_names_say() {
    let files = corpus();
    assert!(files.len() >= 60, "{} manifests", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let output = run("validate", &["-f", file.to_str().unwrap()], "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let by_operator = said.contains("InvalidSpec");
        let verdict = match output.status.code() {
            Some(0) => "accepted",
            Some(1) if by_operator => "operator",
            Some(1) => "refused",
            _ => "neither",
        };
        let text = fs::read_to_string(file).unwrap();
        let says = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# says: "));
        let times = says.map_or(1, |says| said.matches(says).count());
        if !name.starts_with(verdict) || times != 1 {
            wrong.push(format!(
                "{name}: {verdict}, '{}' {times} times:\n{said}",
                says.unwrap_or("")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_problem_of_the_corpus_is_told_once() {
    for file in corpus() {
        let output = run(
            "validate",
            &["-o", "json", "-f", file.to_str().unwrap()],
            "",
        );
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
            assert!(file.ends_with("refused-empty.yaml"), "{}", file.display());
            continue;
        };
        assert_eq!(report["valid"] == true, output.status.success());
        let objects = ["peerRelays", "tailnetCredentials"].map(|kind| report[kind].as_array());
        let mut paths: Vec<_> = (objects.into_iter().flatten().flatten())
            .flat_map(|object| object["problems"].as_array().unwrap())
            .map(|problem| problem["path"].to_string())
            .collect();
        let all = paths.len();
        paths.dedup();
        assert_eq!(paths.len(), all, "{}: {report}", file.display());
    }
}

#[test]
fn what_is_refused_is_no_input_of_other_commands() {
    for command in ["grants", "firewall"] {
        for verdict in [
            "refused-port-0",
            "refused-tag-without-prefix",
            "operator-client-with-a-port",
        ] {
            let file = format!("{}/{verdict}.yaml", directory().display());
            let output = run(command, &["-f", &file], "");
            assert_eq!(
                (output.status.code(), output.stdout.len()),
                (Some(1), 0),
                "{command} {file}"
            );
        }
    }
}

#[test]
fn standard_input_several_files_and_directories_are_read() {
    let smallest = fs::read_to_string(directory().join("accepted-smallest.yaml")).unwrap();
    let node_port = directory()
        .join("accepted-other-kinds-too.yaml")
        .display()
        .to_string();
    let other = smallest.replace("name: edge", "name: other");
    let output = run("validate", &["-f", "-", "-f", &node_port], &other);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("standard input: PeerRelay default/other is valid"),
        "{said}"
    );
    assert!(said.contains("PeerRelay default/edge is valid"), "{said}");

    let output = run("validate", &["-f", "deploy/examples"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn wrong_usage_is_another_exit_code() {
    for arguments in [&[][..], &["-f"], &["-f", "a.yaml", "-o", "xml"]] {
        assert_eq!(run("validate", arguments, "").status.code(), Some(2));
    }
    let output = run("validate", &["-f", "missing.yaml"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("failed to read missing.yaml"), "{said}");
}

fn directory() -> PathBuf {
    super::root().join("tests/manifests/corpus")
}

fn corpus() -> Vec<PathBuf> {
    let entries = fs::read_dir(directory()).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn run(command: &str, arguments: &[&str], input: &str) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    program
        .arg(command)
        .args(arguments)
        .current_dir(super::root());
    fed(&mut program, input)
}
