//! The command line: its messages, exit codes and small commands.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod program;
mod small_commands;
mod wrong_files;
mod wrong_settings;
