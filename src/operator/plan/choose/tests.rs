use std::collections::BTreeMap;

use bolero::{ValueGenerator, check, produce};

use super::*;

/// Nodes, and which of them run a relay.
type Cluster = (Vec<Candidate>, BTreeSet<String>);

const UNLIMITED: usize = usize::MAX;

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

/// Holds for up to 5 regions on up to 12 nodes, each with nodes of its own choice, a limit of its
/// own, and the host network or not; nothing runs.
fn holds_for_regions(property: impl Fn(&[Request], usize) + std::panic::RefUnwindSafe) {
    let region = (0..4096_u32, 0..8_usize, 0..4_u8);
    let regions = produce::<Vec<_>>().with().values(region).len(1..6_usize);
    let check = check!().with_iterations(512);
    let check = check.with_generator((regions, 0..16_usize));
    check.for_each(|(regions, allowance)| {
        let request = |(at, (nodes, most, shape)): (usize, &(u32, usize, u8))| {
            let fitting = (0..12_u32).filter(|node| nodes >> node & 1 == 1);
            let candidate = |node: u32| Candidate {
                name: format!("n{node}"),
                zone: format!("z{}", node % 3),
                open: true,
            };
            Request {
                exclusive: *shape > 0,
                most: *most,
                ..request(
                    &format!("k{at}"),
                    &fitting.map(candidate).collect::<Vec<_>>(),
                    &BTreeSet::new(),
                )
            }
        };
        let requests: Vec<_> = regions.iter().enumerate().map(request).collect();
        property(&requests, *allowance);
    });
}

fn request(key: &str, candidates: &[Candidate], running: &BTreeSet<String>) -> Request {
    Request {
        key: key.to_owned(),
        candidates: candidates.to_vec(),
        running: running.clone(),
        most: UNLIMITED,
        cap: UNLIMITED,
        exclusive: true,
    }
}

/// The choice for one region that may have `most` relays.
fn one(candidates: &[Candidate], running: &BTreeSet<String>, most: usize) -> Choice {
    let request = Request {
        most,
        ..request("k", candidates, running)
    };
    choose(&[request], UNLIMITED).remove(0)
}

fn all(choice: &Choice) -> BTreeSet<String> {
    choice.stay.iter().chain(&choice.start).cloned().collect()
}

/// The requests after `choices` have been carried out.
fn carried_out(requests: &[Request], choices: &[Choice]) -> Vec<Request> {
    let after = |(request, choice): (&Request, &Choice)| Request {
        running: all(choice),
        ..request.clone()
    };
    requests.iter().zip(choices).map(after).collect()
}

/// Carries choices out until nothing changes.
fn settled(requests: &[Request], allowance: usize) -> Vec<Request> {
    let mut now = requests.to_vec();
    for _ in 0..8 {
        let next = carried_out(&now, &choose(&now, allowance));
        if next == now {
            return now;
        }
        now = next;
    }
    panic!("choices do not settle: {now:?}");
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
        let there = one(nodes, running, most);
        let reversed: Vec<_> = nodes.iter().rev().cloned().collect();
        assert_eq!(there, one(&reversed, running, most));
    });
}

#[test]
fn never_more_than_allowed_and_as_many_as_fit() {
    holds(12, |(nodes, running), most| {
        let chosen = all(&one(nodes, running, most));
        let fits = |node: &&Candidate| node.open || running.contains(&node.name);
        assert_eq!(chosen.len(), nodes.iter().filter(fits).count().min(most));
    });
}

#[test]
fn who_runs_a_relay_keeps_it() {
    holds(24, |(nodes, running), most| {
        let choice = one(nodes, running, most);
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
        let chosen = all(&one(nodes, running, most));
        let again = one(nodes, &chosen, most);
        assert!(again.start.is_empty());
        assert_eq!(all(&again), chosen);
    });
}

#[test]
fn a_choice_carried_out_by_halves_ends_the_same() {
    holds(12, |(nodes, some), most| {
        let whole = all(&one(nodes, &BTreeSet::new(), most));
        let half = whole.intersection(some).cloned().collect();
        let rest = all(&one(nodes, &half, most));
        let zones = |chosen: &BTreeSet<String>| per_zone(chosen, nodes);
        assert_eq!(zones(&rest), zones(&whole));
        assert_eq!(rest, whole);
    });
}

#[test]
fn zones_differ_by_one_unless_exhausted() {
    holds(12, |(nodes, _), most| {
        let chosen = all(&one(nodes, &BTreeSet::new(), most));
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
        let before = all(&one(nodes, running, most));
        for gone in &before {
            let left: Vec<_> = nodes.iter().filter(|n| n.name != *gone).cloned().collect();
            let after = all(&one(&left, &before, most));
            assert!(before.difference(&after).eq([gone]));
            assert!(after.difference(&before).count() <= 1);
        }
    });
}

#[test]
fn one_more_moves_nobody() {
    holds(12, |(nodes, running), most| {
        let before = all(&one(nodes, running, most));
        let after = all(&one(nodes, running, most + 1));
        assert!(before.is_subset(&after) || running.len() > most);
    });
}

#[test]
fn shares_add_up_and_no_region_on_the_host_network_meets_another() {
    holds_for_regions(|requests, allowance| {
        let choices = choose(requests, allowance);
        let total: usize = choices.iter().map(|choice| all(choice).len()).sum();
        assert!(total <= allowance);
        let mut occupied = BTreeSet::new();
        for (request, choice) in requests.iter().zip(&choices) {
            let fits = |node: &String| request.candidates.iter().any(|c| c.name == *node);
            assert!(all(choice).iter().all(fits));
            assert!(all(choice).len() <= request.most);
            if request.exclusive {
                assert!(all(choice).into_iter().all(|node| occupied.insert(node)));
            }
        }
        // Nobody goes without while there is something left.
        if total < allowance {
            assert!(choices.iter().all(|choice| choice.excess.is_empty()));
        }
    });
}

#[test]
fn no_region_has_two_more_than_one_that_could_have_one_of_them() {
    holds_for_regions(|requests, allowance| {
        let choices = choose(requests, allowance);
        for (poor, has) in requests.iter().zip(&choices) {
            for (rich, more) in requests.iter().zip(&choices) {
                let fits = |node: &String| {
                    let taken = poor.exclusive && rich.exclusive;
                    taken && poor.candidates.iter().any(|c| c.name == *node)
                };
                let could = all(has).len() < poor.most && all(more).iter().any(fits);
                assert!(!could || all(more).len() < all(has).len() + 2);
            }
        }
    });
}

#[test]
fn choices_for_regions_are_final_whoever_is_reconciled_first() {
    holds_for_regions(|requests, allowance| {
        let after = settled(requests, allowance);
        for choice in choose(&after, allowance) {
            assert!(choice.start.is_empty() && choice.awaited.is_empty());
        }
    });
}

#[test]
fn a_region_that_is_added_gets_its_share() {
    holds_for_regions(|requests, allowance| {
        let Some((added, before)) = requests.split_last() else {
            return;
        };
        let mut now = settled(before, allowance);
        let old = now.clone();
        now.push(added.clone());
        let now = settled(&now, allowance);
        let has = |at: usize| now[at].running.len();
        let last = before.len();
        let mut stopped = 0;
        for (at, rich) in now[..last].iter().enumerate() {
            let fits = |node: &String| added.candidates.iter().any(|c| c.name == *node);
            let meets = rich.exclusive && added.exclusive && rich.running.iter().any(fits);
            // With a third region that is poorer still, the rest of the share may go there.
            let share = match last {
                1 => has(last),
                _ => has(last).min(1) * has(at),
            };
            assert!(!meets || has(last) >= added.most || has(at) < share + 2);
            stopped += old[at].running.difference(&rich.running).count();
        }
        assert!(stopped <= has(last), "a relay stopped for nothing");
        let total: usize = (0..=last).map(has).sum();
        assert!(total <= allowance);
    });
}

#[test]
fn nodes_given_up_for_an_added_region_serve_it_before_more_are_given_up() {
    let region = |key: &str, nodes: &[u32], most: usize, exclusive: bool| {
        let candidate = |node: &u32| Candidate {
            name: format!("n{node}"),
            zone: format!("z{}", node % 3),
            open: true,
        };
        let candidates: Vec<_> = nodes.iter().map(candidate).collect();
        Request {
            most,
            exclusive,
            ..request(key, &candidates, &BTreeSet::new())
        }
    };
    let old = [
        region("k0", &[0, 1, 2, 3, 4, 5, 10, 11], 7, false),
        region("k1", &[1, 3, 4, 5, 6, 7, 8, 10], 7, true),
    ];
    let mut now = settled(&old, 14);
    now.push(region("k2", &[0, 3, 4, 5, 9], 5, true));
    let counts: Vec<_> = choose(&now, 14)
        .iter()
        .map(|choice| choice.stay.len() + choice.awaited.len())
        .collect();
    assert_eq!(counts, [5, 5, 4]);
}

#[test]
fn a_node_that_goes_moves_no_relay_of_any_region() {
    holds_for_regions(|requests, allowance| {
        let before = settled(requests, allowance);
        for node in 0..12 {
            let gone = format!("n{node}");
            let mut left = before.clone();
            for request in &mut left {
                request.candidates.retain(|c| c.name != gone);
            }
            let emptied = |r: &Request| r.running.iter().eq([&gone]);
            if left.iter().any(emptied) {
                continue;
            }
            for (choice, request) in choose(&left, allowance).iter().zip(&left) {
                let mut stay = request.running.clone();
                stay.remove(&gone);
                assert!(choice.stay.iter().eq(&stay));
            }
        }
    });
}

#[test]
fn an_allowance_stops_no_running_relay_and_starts_none_beyond() {
    holds(12, |(nodes, running), allowance| {
        let request = request("k", nodes, running);
        let choice = choose(&[request], allowance).remove(0);
        assert!(choice.stay.iter().eq(running));
        let beyond = running.len() >= allowance;
        assert!(all(&choice).len() <= allowance || beyond && choice.start.is_empty());
    });
}

#[test]
fn two_regions_on_the_same_two_nodes_get_one_each() {
    let nodes = nodes(2);
    let nothing = BTreeSet::new();
    let requests = ["a", "b"].map(|key| request(key, &nodes, &nothing));
    let choices = choose(&requests, 2);
    assert!(choices.iter().all(|c| c.start.len() == 1));
    assert_ne!(choices[0].start, choices[1].start);
    // One that is added when the first has both.
    let both = nodes.iter().map(|node| node.name.clone()).collect();
    let later = [request("a", &nodes, &both), request("b", &nodes, &nothing)];
    let choices = choose(&later, 2);
    assert_eq!((choices[0].stay.len(), choices[1].awaited.len()), (1, 1));
    let now = settled(&later, 2);
    assert!(now.iter().all(|request| request.running.len() == 1));
    // Nobody gives up its only one.
    let requests = ["a", "b", "c"].map(|key| request(key, &nodes, &nothing));
    let now = settled(&requests, 2);
    let counts: Vec<_> = now.iter().map(|r| r.running.len()).collect();
    assert_eq!(counts, [1, 1, 0]);
}

#[test]
fn a_region_takes_another_node_for_one_that_has_no_choice() {
    let nodes = nodes(2);
    let nothing = BTreeSet::new();
    let whole = request("k", &nodes, &nothing);
    let favourite = choose(std::slice::from_ref(&whole), 1)[0].start.clone();
    let only = nodes.into_iter().filter(|n| n.name == favourite[0]);
    let requests = [whole, request("b", &only.collect::<Vec<_>>(), &nothing)];
    let choices = choose(&requests, 2);
    assert!(choices.iter().all(|choice| choice.start.len() == 1));
    assert_eq!(choices[1].start, favourite);
}

fn nodes(count: usize) -> Vec<Candidate> {
    let node = |at| Candidate {
        name: format!("n{at}"),
        zone: String::new(),
        open: true,
    };
    (0..count).map(node).collect()
}
