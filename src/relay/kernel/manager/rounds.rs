//! Order in which the entries of sessions are visited after a change of the network: a part at a time,
//! so that requests are handled in between.

use std::{collections::BTreeSet, mem, ops::Range, time::Duration};

/// Most entries in one part. Each takes some system calls, so a request waits for some milliseconds.
const PART: usize = 256;
/// Upper bound of VNIs, which have 24 bits.
const VNIS: u32 = 1 << 24;

/// Rounds through all entries.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    vnis: BTreeSet<u32>,
    /// VNIs that the round has yet to visit, in this order.
    ahead: [Range<u32>; 2],
    /// Time that the round has taken.
    spent: Duration,
}

impl Rounds {
    /// Rounds through entries with these VNIs, of which none has begun.
    pub(super) fn new(vnis: impl IntoIterator<Item = u32>) -> Self {
        Self {
            vnis: vnis.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Adds the entry with this VNI. The current round need not visit it.
    pub(super) fn insert(&mut self, vni: u32) {
        self.vnis.insert(vni);
    }

    pub(super) fn remove(&mut self, vni: u32) {
        self.vnis.remove(&vni);
    }

    /// Begins a round through all entries. If one has not ended, the new one goes on where that one is and comes back to
    /// there: changes that come faster than a round ends do not keep the last entries from their turn.
    pub(super) fn begin(&mut self) {
        let begun = self.ahead.iter().find(|range| !range.is_empty());
        let from = begun.map_or(0, |range| range.start);
        self.ahead = [from..VNIS, 0..from];
    }

    /// Returns whether a round has not ended.
    pub(super) fn is_running(&self) -> bool {
        self.ahead.iter().any(|range| !range.is_empty())
    }

    /// The next VNIs of the round.
    pub(super) fn next_part(&mut self) -> Vec<u32> {
        let mut part = Vec::with_capacity(PART);
        for range in &mut self.ahead {
            let room = PART - part.len();
            part.extend(self.vnis.range(range.clone()).take(room));
            range.start = match part.last() {
                Some(&last) if part.len() == PART => last + 1,
                _ => range.end,
            };
            if part.len() == PART {
                break;
            }
        }
        part
    }

    /// Adds the time that a part has taken. Returns the time of the whole round if it was the last one.
    pub(super) fn record(&mut self, spent: Duration) -> Option<Duration> {
        self.spent += spent;
        (!self.is_running()).then(|| mem::take(&mut self.spent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts until the end of the round.
    fn rest(rounds: &mut Rounds) -> Vec<Vec<u32>> {
        let mut parts = Vec::new();
        while rounds.is_running() {
            parts.push(rounds.next_part());
        }
        parts
    }

    #[test]
    fn a_round_visits_each_entry_once_in_short_parts() {
        for count in [0, 1, PART as u32, 20_000] {
            let vnis: Vec<u32> = (0..count).map(|number| number * 800 + 1).collect();
            let mut rounds = Rounds::new(vnis.clone());
            assert!(!rounds.is_running());
            rounds.begin();
            let parts = rest(&mut rounds);
            assert!(parts.iter().all(|part| part.len() <= PART));
            assert_eq!(parts.concat(), vnis);
        }
    }

    #[test]
    fn changes_that_come_faster_than_a_round_starve_no_entry() {
        let mut rounds = Rounds::new(1..=2_000);
        let mut visited = BTreeSet::new();
        for _ in 0..8 {
            rounds.begin();
            visited.extend(rounds.next_part());
        }
        assert_eq!(visited.len(), 2_000);
        rounds.begin();
        let last = rest(&mut rounds).concat();
        assert_eq!(
            last.into_iter().collect::<BTreeSet<_>>(),
            (1..=2_000).collect(),
            "after the last change, each entry is visited again"
        );
    }

    #[test]
    fn entries_that_come_and_go_keep_no_other_from_its_turn() {
        let mut rounds = Rounds::new((1..=1_000).map(|number| number * 10));
        rounds.begin();
        let mut visited = rounds.next_part();
        for number in 1..=1_000 {
            rounds.insert(number * 10 + 1);
        }
        rounds.remove(10_000);
        visited.extend(rest(&mut rounds).concat());
        let missed = (1..1_000).filter(|number| !visited.contains(&(number * 10)));
        assert_eq!(missed.count(), 0);
        assert!(!visited.contains(&10_000));
    }

    #[test]
    fn time_of_a_round_is_that_of_its_parts() {
        let second = Duration::from_secs(1);
        let mut rounds = Rounds::new(1..=2 * PART as u32 + 1);
        rounds.begin();
        let times = [(); 3].map(|()| {
            rounds.next_part();
            rounds.record(second)
        });
        assert_eq!(times, [None, None, Some(3 * second)]);
    }
}
