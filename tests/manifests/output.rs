//! Commands that print end without a panic when standard output is closed or full.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use peerrelay::relay::sessions::SOCKET;
use tempfile::TempDir;

const EXAMPLE: &str = "deploy/examples/smallest.yaml";
/// Commands that print, with their arguments.
const COMMANDS: [&[&str]; 8] = [
    &["crd"],
    &["validate", "-f", EXAMPLE],
    &["validate", "-o", "json", "-f", EXAMPLE],
    &["grants", "-f", EXAMPLE],
    &["grants", "-o", "json", "-f", EXAMPLE],
    &["firewall", "-f", EXAMPLE],
    &["sessions", "-o", "json"],
    &["sessions"],
];

#[test]
fn closed_output_ends_a_command_quietly() {
    for arguments in COMMANDS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(arguments, writer.into(), Stdio::piped());
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert_no_error(&output, arguments);
    }
}

#[test]
fn full_output_is_an_error_with_its_reason() {
    for arguments in COMMANDS {
        let output = run(arguments, full(), Stdio::piped());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let reason = "failed to write to standard output";
        assert!(said.contains(reason) && said.contains("No space"), "{said}");
    }
}

#[test]
fn full_standard_error_does_not_keep_results_from_being_printed() {
    for arguments in COMMANDS {
        let output = run(arguments, Stdio::piped(), full());
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn exit_code_of_a_closed_output_is_documented() {
    let text = fs::read_to_string(super::root().join("docs/cli.md")).unwrap();
    assert!(text.contains("141 if standard output is closed"));
}

/// Fails if there is more on standard error than warnings.
fn assert_no_error(output: &Output, arguments: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    let is_warning = |line: &str| line.starts_with("warning: ");
    assert!(said.lines().all(is_warning), "{arguments:?}: {said}");
}

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

fn run(arguments: &[&str], output: Stdio, errors: Stdio) -> Output {
    let dir = TempDir::new().unwrap();
    answer_as_a_relay(dir.path());
    let mut program = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    program.args(arguments).current_dir(super::root());
    program.env("PEERRELAY_SESSION_DIR", dir.path());
    let program = program.stdout(output).stderr(errors).spawn().unwrap();
    program.wait_with_output().unwrap()
}

/// Answers one request for the sessions, as a relay without sessions does.
fn answer_as_a_relay(dir: &Path) {
    let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for _ in lines
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
        {}
        let answer = "HTTP/1.0 200 OK\r\n\r\n{\"port\":40000,\"sessions\":[]}";
        stream.write_all(answer.as_bytes()).ok();
    });
}
