//! Patterns of names of network interfaces.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of a pattern. A name has 15 bytes at most (`IFNAMSIZ`).
pub const LONGEST: u32 = 32;

/// Pattern of names of network interfaces, such as `eth0` or `en*`. An asterisk stands for any
/// characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfacePattern(String);

/// Error of parsing a pattern that no interface can match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' matches no interface: write a name such as eth0, or a pattern such as en*")]
pub struct PatternError(String);

impl InterfacePattern {
    /// Returns whether an interface has a name that matches.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.split_once('*') {
            None => self.0 == name,
            Some((start, rest)) => name
                .strip_prefix(start)
                .is_some_and(|name| ends_as(name, rest)),
        }
    }
}

/// Returns whether a name, behind any characters, matches the part of a pattern after an asterisk.
fn ends_as(name: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => name.ends_with(pattern),
        Some((part, rest)) => name
            .find(part)
            .is_some_and(|at| ends_as(&name[at + part.len()..], rest)),
    }
}

impl FromStr for InterfacePattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        // No name has these characters (`dev_valid_name` in net/core/dev.c).
        let refused = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if text.is_empty() || text.len() > LONGEST as usize || text.contains(refused) {
            return Err(PatternError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for InterfacePattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<InterfacePattern> for String {
    fn from(pattern: InterfacePattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn an_asterisk_stands_for_any_characters() {
        for (pattern, matching, others) in [
            ("eth0", &["eth0"][..], &["eth01", "veth0", "eth"][..]),
            ("en*", &["en", "eno1", "enp0s31f6"], &["ten", "e"]),
            ("*.100", &["eth0.100", ".100"], &["eth0.1000", "eth0.10"]),
            (
                "e*p*1",
                &["enp0s1", "ep1", "eppp11"],
                &["enp0", "p1", "e1p"],
            ),
            ("*", &["lo", ""], &[]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("*ab*ab", &["abab", "xabyab"], &["ab", "aba"]),
        ] {
            let parsed: InterfacePattern = pattern.parse().unwrap();
            for name in matching {
                assert!(parsed.matches(name), "{pattern} {name}");
            }
            for name in others {
                assert!(!parsed.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_pattern_that_matches_no_name_is_refused() {
        let long = "e".repeat(LONGEST as usize + 1);
        for text in ["", "eth 0", "eth0:1", "/dev/eth0", "eth0\n", &long] {
            let error = text.parse::<InterfacePattern>().unwrap_err().to_string();
            assert!(error.contains("write a name such as eth0"), "{error}");
        }
    }
}
