//! Programs that read their standard input.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs a program with this input. One that ends before it reads closes the pipe.
pub(crate) fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}
