//! Standard output and standard error of the commands that print.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;

/// Format of findings.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

/// Exit code if standard output is closed before everything is written: the code that shells report for
/// a program that SIGPIPE has ended.
pub(super) const CLOSED: u8 = 141;

/// Error of writing to standard output.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The reader has closed the pipe, as `head` does.
    #[error("standard output is closed")]
    Closed,
    /// The output cannot be written, for example to a full disk.
    #[error("failed to write to standard output")]
    Write(#[source] io::Error),
}

/// Writes text to standard output.
///
/// # Errors
/// Not all of the text was written.
pub(super) fn print(text: &str) -> Result<(), OutputError> {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes());
    written
        .and_then(|()| output.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe => OutputError::Closed,
            _ => OutputError::Write(error),
        })
}

/// Writes a line to standard error. If it is closed or full, the line is lost.
pub(super) fn print_error(line: impl std::fmt::Display) {
    writeln!(io::stderr(), "{line}").ok();
}
