//! Faults that are still in the tree, counted for each room. The numbers may only fall.

use std::{collections::BTreeMap, env, fmt::Write as _, fs};

use crate::source::root;

const PATH: &str = "tests/house/limits.txt";
const HEADING: &str =
    "# Faults that are still in the tree, by rule and room (tests/house). Numbers may only fall.\n";

/// Numbers of faults by rule and room.
#[derive(Clone, Default)]
pub(crate) struct Counts(BTreeMap<(String, String), usize>);

impl Counts {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one fault to the count.
    pub(crate) fn add(&mut self, rule: &str, room: String) {
        *self.0.entry((rule.to_owned(), room)).or_default() += 1;
    }

    fn get(&self, key: &(String, String)) -> usize {
        self.0.get(key).copied().unwrap_or_default()
    }

    /// Compares the faults against some rules with the file of limits. Fails where there are more than
    /// allowed, and where there are fewer: the limit then has to fall, which `UPDATE=1` does.
    pub(crate) fn hold(&self, rules: &[&str]) {
        let is_update = env::var_os("UPDATE").is_some();
        let limits = Self::read();
        let mut lowered = limits.clone();
        let mut wrong = String::new();
        let keys = self.0.keys().chain(limits.0.keys());
        for key in keys.filter(|key| rules.contains(&&*key.0)) {
            let (count, limit) = (self.get(key), limits.get(key));
            let (rule, room) = key;
            if count > limit {
                writeln!(wrong, "{room}: {count} {rule}, {limit} are allowed").unwrap();
            } else if count < limit && !is_update {
                writeln!(wrong, "{room}: {count} {rule}: lower the limit of {limit}").unwrap();
            }
            lowered.0.insert(key.clone(), count.min(limit));
        }
        if is_update {
            lowered.write();
        }
        assert!(wrong.is_empty(), "{PATH} (UPDATE=1 lowers limits)\n{wrong}");
    }

    fn read() -> Self {
        let text = fs::read_to_string(root().join(PATH)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let limits = lines.map(|line| {
            let (number, rest) = line.split_once(' ').unwrap();
            let (rule, room) = rest.rsplit_once(" in ").unwrap();
            ((rule.to_owned(), room.to_owned()), number.parse().unwrap())
        });
        Self(limits.collect())
    }

    fn write(&self) {
        let mut text = HEADING.to_owned();
        for ((rule, room), number) in self.0.iter().filter(|(_, number)| **number > 0) {
            writeln!(text, "{number} {rule} in {room}").unwrap();
        }
        fs::write(root().join(PATH), text).unwrap();
    }
}
