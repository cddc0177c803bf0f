//! Which nodes of those that fit get a relay: spread over zones, and moved as little as possible.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use sha2::{Digest, Sha256};

/// A node that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) name: String,
    /// Its zone.
    pub(super) zone: String,
    /// Whether a relay may be put onto it; one that is there may stay either way.
    pub(super) open: bool,
}

/// What becomes of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Nodes that keep their relay.
    pub(super) stay: Vec<String>,
    /// Nodes that get one, the most wanted first.
    pub(super) start: Vec<String>,
}

/// Chooses `most` of the candidates for the region named `key`.
///
/// Who has a relay keeps it. Every further one goes to the zone with the fewest, and there to the
/// node of the highest score. A score depends on nothing but `key` and the name (rendezvous
/// hashing), so the choice is the same after a restart, and a node that comes or goes moves no
/// other.
pub(super) fn choose(
    key: &str,
    candidates: &[Candidate],
    running: &BTreeSet<String>,
    most: usize,
) -> Choice {
    let mut zones: BTreeMap<&str, Zone<'_>> = BTreeMap::new();
    for candidate in candidates {
        let zone = zones.entry(&candidate.zone).or_default();
        let scored = (score(key, &candidate.name), candidate.name.as_str());
        if running.contains(&candidate.name) {
            zone.stay.insert(scored);
        } else if candidate.open {
            zone.open.insert(scored);
        }
    }
    let preference = |name: &str| score(key, name);
    let mut count: usize = zones.values().map(|zone| zone.stay.len()).sum();
    while count > most {
        let fullest = zones
            .iter_mut()
            .max_by_key(|(name, zone)| (zone.stay.len(), Reverse(preference(name))));
        fullest.and_then(|(_, zone)| zone.stay.pop_first());
        count -= 1;
    }
    let mut choice = Choice::default();
    for zone in zones.values() {
        choice
            .stay
            .extend(zone.stay.iter().map(|(_, name)| (*name).to_owned()));
    }
    choice.stay.sort_unstable();
    while count < most {
        let open = zones.iter_mut().filter(|(_, zone)| !zone.open.is_empty());
        let emptiest = open
            .min_by_key(|(name, zone)| (zone.stay.len() + zone.started, Reverse(preference(name))));
        let Some((_, zone)) = emptiest else { break };
        if let Some((_, name)) = zone.open.pop_last() {
            choice.start.push(name.to_owned());
        }
        zone.started += 1;
        count += 1;
    }
    choice
}

#[derive(Default)]
struct Zone<'a> {
    stay: BTreeSet<(u64, &'a str)>,
    open: BTreeSet<(u64, &'a str)>,
    started: usize,
}

fn score(key: &str, name: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(key);
    hash.update([0]);
    hash.update(name);
    let bytes: [u8; 8] = hash.finalize()[..8].try_into().expect("a digest is longer");
    u64::from_be_bytes(bytes)
}

/// Gives out `allowance` relays in total over regions, of which `choices` says what each wants:
/// one after the other to the region that has the fewest, the first of equals. Who runs a relay
/// keeps it even beyond the allowance. What is left of each region's wishes is the excess.
pub(super) fn share(choices: &mut [Choice], allowance: usize) -> Vec<Vec<String>> {
    let running: usize = choices.iter().map(|choice| choice.stay.len()).sum();
    let mut wishes: Vec<_> = choices
        .iter_mut()
        .map(|choice| std::mem::take(&mut choice.start).into_iter().peekable())
        .collect();
    for _ in running..allowance {
        let open =
            (0..choices.len()).filter(|at| wishes.get_mut(*at).is_some_and(|w| w.peek().is_some()));
        let poorest = open.min_by_key(|at| choices[*at].stay.len() + choices[*at].start.len());
        let Some(at) = poorest else { break };
        choices[at].start.extend(wishes[at].next());
    }
    wishes.into_iter().map(Iterator::collect).collect()
}

#[cfg(test)]
mod tests {
    use bolero::{ValueGenerator, check, produce};

    use super::*;

    /// Nodes, and which of them run a relay.
    type Cluster = (Vec<Candidate>, BTreeSet<String>);

    /// Holds for any cluster of up to 24 nodes in up to 4 zones, some of which may not be started
    /// on, while some run a relay already; and for any allowance below `most`.
    fn holds(most: usize, property: impl Fn(&Cluster, usize) + std::panic::RefUnwindSafe) {
        let node = (0..4_u8, 0..10_u8, 0..10_u8);
        let nodes = produce::<Vec<_>>().with().values(node).len(0..24_usize);
        let cluster = nodes.map_gen(|nodes| {
            let named = |(at, (zone, open, _)): (usize, &(u8, u8, u8))| Candidate {
                name: format!("n{at}"),
                zone: format!("z{zone}"),
                open: *open < 9,
            };
            let running =
                |(at, (.., runs)): (usize, &(u8, u8, u8))| (*runs < 3).then(|| format!("n{at}"));
            (
                nodes.iter().enumerate().map(named).collect::<Vec<_>>(),
                nodes.iter().enumerate().filter_map(running).collect(),
            )
        });
        let check = check!().with_iterations(256);
        let check = check.with_generator((cluster, 0..most));
        check.for_each(|(cluster, most)| property(cluster, *most));
    }

    fn all(choice: &Choice) -> BTreeSet<String> {
        choice.stay.iter().chain(&choice.start).cloned().collect()
    }

    fn per_zone(chosen: &BTreeSet<String>, candidates: &[Candidate]) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for candidate in candidates {
            *counts.entry(candidate.zone.clone()).or_default() +=
                usize::from(chosen.contains(&candidate.name));
        }
        counts
    }

    #[test]
    fn order_of_nodes_does_not_matter() {
        holds(12, |(nodes, running), most| {
            let there = choose("k", nodes, running, most);
            let reversed: Vec<_> = nodes.iter().rev().cloned().collect();
            assert_eq!(there, choose("k", &reversed, running, most));
        });
    }

    #[test]
    fn never_more_than_allowed_and_as_many_as_fit() {
        holds(12, |(nodes, running), most| {
            let chosen = all(&choose("k", nodes, running, most));
            let fits = |node: &&Candidate| node.open || running.contains(&node.name);
            assert_eq!(chosen.len(), nodes.iter().filter(fits).count().min(most));
        });
    }

    #[test]
    fn who_runs_a_relay_keeps_it() {
        holds(24, |(nodes, running), most| {
            let choice = choose("k", nodes, running, most);
            if running.len() <= most {
                let stay: BTreeSet<_> = choice.stay.into_iter().collect();
                assert_eq!(stay, *running);
            } else {
                assert!(choice.start.is_empty());
            }
        });
    }

    #[test]
    fn a_choice_is_final() {
        holds(12, |(nodes, running), most| {
            let chosen = all(&choose("k", nodes, running, most));
            let again = choose("k", nodes, &chosen, most);
            assert!(again.start.is_empty());
            assert_eq!(all(&again), chosen);
        });
    }

    #[test]
    fn a_choice_carried_out_by_halves_ends_the_same() {
        holds(12, |(nodes, some), most| {
            let whole = all(&choose("k", nodes, &BTreeSet::new(), most));
            let half = whole.intersection(some).cloned().collect();
            let rest = all(&choose("k", nodes, &half, most));
            let zones = |chosen: &BTreeSet<String>| per_zone(chosen, nodes);
            assert_eq!(zones(&rest), zones(&whole));
            assert_eq!(rest, whole);
        });
    }

    #[test]
    fn zones_differ_by_one_unless_exhausted() {
        holds(12, |(nodes, _), most| {
            let chosen = all(&choose("k", nodes, &BTreeSet::new(), most));
            let counts = per_zone(&chosen, nodes);
            let open = |zone: &str| nodes.iter().filter(|n| n.zone == zone && n.open).count();
            let fullest = counts.values().max().copied().unwrap_or(0);
            for (zone, count) in counts {
                assert!(
                    count + 1 >= fullest || count == open(&zone),
                    "{zone}: {count}"
                );
            }
        });
    }

    #[test]
    fn a_node_that_goes_is_replaced_and_nothing_else_moves() {
        holds(12, |(nodes, running), most| {
            let before = all(&choose("k", nodes, running, most));
            for gone in &before {
                let left: Vec<_> = nodes.iter().filter(|n| n.name != *gone).cloned().collect();
                let after = all(&choose("k", &left, &before, most));
                assert!(before.difference(&after).eq([gone]));
                assert!(after.difference(&before).count() <= 1);
            }
        });
    }

    #[test]
    fn one_more_moves_nobody() {
        holds(12, |(nodes, running), most| {
            let before = all(&choose("k", nodes, running, most));
            let after = all(&choose("k", nodes, running, most + 1));
            assert!(before.is_subset(&after) || running.len() > most);
        });
    }

    #[test]
    fn an_allowance_stops_no_running_relay_and_starts_none_beyond() {
        let size = (0..4_usize, 0..6_usize);
        let sizes = produce::<Vec<_>>().with().values(size).len(1..6_usize);
        let check = check!().with_iterations(256);
        let check = check.with_generator((sizes, 0..12_usize));
        check.for_each(|(sizes, allowance)| {
            let names = |at: usize, what: &str, count: usize| -> Vec<String> {
                (0..count).map(|i| format!("{at}-{what}-{i}")).collect()
            };
            let of = |(at, (stay, start)): (usize, &(usize, usize))| Choice {
                stay: names(at, "stay", *stay),
                start: names(at, "start", *start),
            };
            let mut choices: Vec<_> = sizes.iter().enumerate().map(of).collect();
            let before = choices.clone();
            let excess = share(&mut choices, *allowance);
            let total: usize = choices.iter().map(|c| c.stay.len() + c.start.len()).sum();
            let running: usize = before.iter().map(|c| c.stay.len()).sum();
            assert!(total <= *allowance.max(&running));
            for ((now, then), left) in choices.iter().zip(&before).zip(&excess) {
                assert_eq!(now.stay, then.stay);
                let wished: Vec<_> = now.start.iter().chain(left).cloned().collect();
                assert_eq!(wished, then.start);
            }
            if excess.iter().any(|left| !left.is_empty()) {
                assert_eq!(total, *allowance.max(&running));
            }
        });
    }

    #[test]
    fn an_allowance_is_shared_by_regions() {
        let wish = |names: &[&str]| Choice {
            stay: vec![],
            start: names.iter().map(ToString::to_string).collect(),
        };
        let mut choices = [wish(&["a1", "a2", "a3"]), wish(&["b1", "b2"])];
        let excess = share(&mut choices, 2);
        assert_eq!(choices[0].start, ["a1"]);
        assert_eq!(choices[1].start, ["b1"]);
        assert_eq!(excess, [vec!["a2", "a3"], vec!["b2"]]);
    }
}
