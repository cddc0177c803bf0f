//! Counts of a run: steps, their effects, and the differences on purpose.

use std::{collections::BTreeMap, fmt};

use super::difference::Difference;

/// The counts of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sequences that were played to their end.
    pub sequences: usize,
    /// Number of steps.
    pub steps: u64,
    /// Number of new sessions.
    pub allocations: u64,
    /// Sessions that were given again.
    pub reallocations: u64,
    /// Requests without an answer.
    pub refusals: u64,
    /// Number of challenges.
    pub challenges: u64,
    /// Legs that were bound.
    pub binds: u64,
    /// Data datagrams that went on.
    pub forwarded: u64,
    /// Datagrams of which nothing came.
    pub silences: u64,
    differences: BTreeMap<Difference, u64>,
}

impl Tally {
    /// Counts a difference.
    pub fn count(&mut self, difference: Difference) {
        *self.differences.entry(difference).or_default() += 1;
    }

    /// Entries of the table that were not seen.
    pub fn unseen(&self) -> Vec<Difference> {
        let seen = |difference: &Difference| self.differences.contains_key(difference);
        Difference::ALL.into_iter().filter(|d| !seen(d)).collect()
    }

    /// A line for each difference, with its count and reason.
    pub fn differences(&self) -> String {
        let line = |(difference, count): (&Difference, &u64)| {
            let name = format!("{difference:?}");
            format!("\n  {name:<19}{count:>6}  {}", difference.reason())
        };
        self.differences.iter().map(line).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sequences,
            steps,
            allocations,
            reallocations,
            refusals,
            challenges,
            binds,
            forwarded,
            silences,
            ..
        } = self;
        write!(
            f,
            "{sequences} sequences of {steps} steps: {allocations} sessions, given again \
             {reallocations} times, {refusals} requests refused, {challenges} challenges, \
             {binds} legs bound, {forwarded} datagrams forwarded, {silences} dropped"
        )
    }
}
