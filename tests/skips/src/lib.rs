//! Tests that could not run on this machine.
//!
//! A test that lacks a tool, a right or a feature of the kernel cannot fail; libtest counts it as passed and,
//! with `--quiet`, shows nothing of what it printed. Such a test calls [`record`] before it returns. The
//! line goes to the terminal past libtest's capture, and into the file that [`FILE`] names, from
//! which `cargo dev test` counts and shows it. It fails for a test that it does not expect there.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
};

/// Variable that names the file for the record: a line for each test, with its name and, after a tab,
/// the reason.
pub const FILE: &str = "PEERRELAY_SKIPPED_TESTS";

/// A test that did not run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skip {
    /// Path of the test in its crate.
    pub test: String,
    /// Feature, tool or right that this machine lacks.
    pub reason: String,
}

/// Records that the test of this thread did not run, and what this machine lacks. The thread must be
/// the one that libtest has started for the test: its name is the test's.
///
/// # Panics
/// The file for the record cannot be written: then nobody would know.
pub fn record(reason: &str) {
    static RECORDED: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

    let thread = thread::current();
    let test = thread.name().unwrap_or("a test without a name");
    let mut recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
    if !recorded.insert((test.to_owned(), reason.to_owned())) {
        return;
    }
    // Past print! and eprint!, whose output libtest captures.
    writeln!(io::stderr(), "not run: {test}: {reason}").ok();
    if let Some(file) = std::env::var_os(FILE) {
        append(Path::new(&file), test, reason).expect("the record of skipped tests can be written");
    }
}

/// Records a test that every machine of CI can run as not run.
///
/// # Panics
/// This is CI.
pub fn record_unless_ci(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI runs this: {reason}");
    record(reason);
}

/// The program that a variable names, as `cargo dev test` sets it; records the test of this thread as
/// not run when it is not set.
///
/// # Panics
/// It is not set, and this is CI.
pub fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        let reason = format!("{variable} names no program: `cargo dev test` builds it and sets it");
        record_unless_ci(&reason);
    }
    program
}

/// Returns whether this process is root; records the test of this thread as not run when it is not.
pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        record("it needs root");
    }
    root
}

/// Reads the tests that a record names, each with its reasons, in order and without duplicates; none
/// when there is no record.
///
/// # Errors
/// The file cannot be read.
pub fn read(file: &Path) -> io::Result<Vec<Skip>> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let mut skips: Vec<_> = text.lines().filter_map(parse).collect();
    skips.sort();
    skips.dedup();
    Ok(skips)
}

/// A test that may be left out.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Name of the test, without its module.
    pub test: &'static str,
    /// Part of the reason that it records.
    pub reason: &'static str,
    /// Explanation why good machines lack it, for the reader of a run.
    pub because: &'static str,
}

impl Allowed {
    /// Returns whether this allows a test to have been left out.
    pub fn allows(&self, skip: &Skip) -> bool {
        let name = skip.test.rsplit("::").next().unwrap_or_default();
        name == self.test && skip.reason.contains(self.reason)
    }
}

/// Test binaries write at the same time: a line is one write to a file that is only appended to.
fn append(file: &Path, test: &str, reason: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{test}\t{reason}\n").as_bytes())
}

fn parse(line: &str) -> Option<Skip> {
    let (test, reason) = line.split_once('\t')?;
    Some(Skip {
        test: test.to_owned(),
        reason: reason.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn a_record_is_read_in_order_and_without_duplicates() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("skips");
        assert_eq!(read(&file).unwrap(), []);
        for (test, reason) in [("b", "no helm"), ("a", "no root"), ("b", "no helm")] {
            append(&file, test, reason).unwrap();
        }
        let skip = |test: &str, reason: &str| Skip {
            test: test.into(),
            reason: reason.into(),
        };
        assert_eq!(
            read(&file).unwrap(),
            [skip("a", "no root"), skip("b", "no helm")]
        );
    }

    #[test]
    fn a_test_is_allowed_by_name_and_reason_only() {
        let allowed = Allowed {
            test: "forwards_on_a_bond",
            reason: "type bond",
            because: "the module is not built",
        };
        let allows = |test: &str, reason: &str| {
            let (test, reason) = (test.into(), reason.into());
            allowed.allows(&Skip { test, reason })
        };
        let reason = "this kernel has no devices of type bond mode active-backup";
        assert!(allows("relay::tests::forwards_on_a_bond", reason));
        assert!(allows("forwards_on_a_bond", reason));
        assert!(!allows("relay::tests::forwards_on_a_bond", "it needs root"));
        assert!(!allows("relay::tests::forwards_on_a_bridge", reason));
    }

    #[test]
    fn the_thread_of_a_test_has_its_name() {
        let thread = thread::current();
        // With one thread for all tests there is none for each.
        let name = thread.name().unwrap();
        assert!(
            name == "main" || name.ends_with("the_thread_of_a_test_has_its_name"),
            "{name}"
        );
    }
}
