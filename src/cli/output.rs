//! Standard output and standard error of the commands that print.

use std::{
    env,
    io::{self, ErrorKind, IsTerminal, Write},
};

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

/// Colour of a word on a terminal.
#[derive(Clone, Copy)]
pub(super) enum Colour {
    /// Something works.
    Green,
    /// Something may be wrong.
    Yellow,
    /// Something is wrong.
    Red,
}

/// Style of words on standard output.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// Words have no colour: the output is a file or a pipe, or `NO_COLOR` is set.
    Plain,
    /// Words have colours.
    Coloured,
}

impl Style {
    /// Returns the style for standard output.
    pub(super) fn of_output() -> Self {
        let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match io::stdout().is_terminal() && !is_refused {
            true => Self::Coloured,
            false => Self::Plain,
        }
    }

    /// Returns a word in a colour.
    pub(super) fn paint(self, colour: Colour, word: &str) -> String {
        let code = match colour {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        match self {
            Self::Plain => word.to_owned(),
            Self::Coloured => format!("\u{1b}[{code}m{word}\u{1b}[0m"),
        }
    }
}

/// Writes a line to standard error. If it is closed or full, the line is lost.
pub(super) fn print_error(line: impl std::fmt::Display) {
    writeln!(io::stderr(), "{line}").ok();
}
