//! The revision of the sources that an image is built from.

use std::{env, fs, path::Path};

use anyhow::{Context, Result};

use crate::command::{program, query};

/// The file into which `git archive` writes the commit and its time.
const ARCHIVED: &str = ".git_archival.txt";
/// Digits of a commit that are shown.
const DIGITS: usize = 12;
/// Time of what is in no commit.
const NO_TIME: u64 = 0;

/// A state of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The commit, `-dirty` if files differ from it, or `unknown`.
    pub commit: String,
    /// The time of the commit in seconds since 1970; `SOURCE_DATE_EPOCH` replaces it.
    pub epoch: u64,
}

impl Revision {
    /// Reads the revision of a repository, or of a source archive of one.
    ///
    /// # Errors
    /// `SOURCE_DATE_EPOCH` is no number.
    pub fn of(root: &Path) -> Result<Self> {
        // Without git, or in a repository of another user, the commit is as unknown as in an archive.
        let found = match Self::of_repository(root) {
            Ok(found) if root.join(".git").exists() => found,
            _ => {
                let text = fs::read_to_string(root.join(ARCHIVED)).unwrap_or_default();
                Self::of_archive(&text)
            }
        };
        let epoch = match env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => text
                .parse()
                .context("SOURCE_DATE_EPOCH must be seconds since 1970")?,
            Err(_) => found.epoch,
        };
        let commit = match env::var("PEERRELAY_COMMIT") {
            Ok(given) if !given.is_empty() => given,
            _ => found.commit,
        };
        Ok(Self { commit, epoch })
    }

    fn of_repository(root: &Path) -> Result<Self> {
        let git = |args: &[&str]| query(program("git").current_dir(root).args(args));
        let commit = git(&["rev-parse", &format!("--short={DIGITS}"), "HEAD"])?;
        let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?
            .trim()
            .is_empty();
        let time = git(&["log", "-1", "--format=%ct"])?;
        Ok(Self {
            commit: commit.trim().to_owned() + if changed { "-dirty" } else { "" },
            epoch: time.trim().parse().context("git printed no time")?,
        })
    }

    fn of_archive(text: &str) -> Self {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let commit = field("commit: ")
            .filter(|commit| commit.len() >= DIGITS)
            .filter(|commit| commit.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Self {
            commit: commit.map_or("unknown", |commit| &commit[..DIGITS]).into(),
            epoch: field("time: ")
                .and_then(|time| time.parse().ok())
                .unwrap_or(NO_TIME),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_archive_names_its_commit() {
        let text = "commit: 0123456789abcdef0123456789abcdef01234567\ntime: 1764000000\n";
        let archived = Revision::of_archive(text);
        assert_eq!(
            (&*archived.commit, archived.epoch),
            ("0123456789ab", 1_764_000_000)
        );
        let unfilled = Revision::of_archive("commit: $Format:%H$\ntime: $Format:%ct$\n");
        assert_eq!((&*unfilled.commit, unfilled.epoch), ("unknown", 0));
    }
}
