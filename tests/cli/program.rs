//! Runs of the program.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Output of a run of the program.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Run of the program in an empty directory, without settings in the environment.
pub(crate) struct Program {
    dir: TempDir,
    command: Command,
    input: Vec<u8>,
}

impl Program {
    pub(crate) fn new(arguments: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
        command.env_clear().env("HOME", dir.path());
        // Errors have no backtrace, even if panics have one.
        command.env("RUST_BACKTRACE", "1");
        command.args(arguments).current_dir(dir.path());
        Self {
            dir,
            command,
            input: Vec::new(),
        }
    }

    /// A relay that cannot start, because its state directory is a file.
    pub(crate) fn relay(arguments: &[&str]) -> Self {
        let base = ["relay", "--state-dir", "a-file", "--data-path", "socket"];
        Self::new(&[&base, arguments].concat()).file("a-file", "")
    }

    pub(crate) fn file(self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.dir.path().join(name), content).unwrap();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    pub(crate) fn run(mut self) -> Run {
        let command = &mut self.command;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        // A program that does not read its input closes it.
        child.stdin.take().unwrap().write_all(&self.input).ok();
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        Run {
            code: status.code(),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }
}

impl Run {
    /// Fails unless the program ended with the code and this one line.
    pub(crate) fn says(&self, code: i32, line: &str) {
        assert_eq!(self.err.trim_end(), line);
        assert_eq!(self.code, Some(code), "{line}");
    }

    /// Fails unless the program refused its usage, and this is the message. Hints follow it.
    pub(crate) fn refuses(&self, message: &str) {
        assert_eq!(self.err.lines().next(), Some(message), "{}", self.err);
        assert_eq!(self.code, Some(2), "{message}");
    }
}
