//! The filter of VNIs that another data path reads.

use std::sync::{Arc, atomic::AtomicU64};

use relay_proto::{Vni, VniFilter};

use crate::sim::{Client, FilterWords, Sim, seconds};

/// A number of words so small that many VNIs share a bit.
const WORDS: usize = 64;

/// Words in the state in which an earlier relay has left them.
fn used_words() -> Arc<FilterWords> {
    let words = (0..WORDS).map(|n| AtomicU64::new(n as u64 * 77));
    Arc::new(FilterWords(words.collect()))
}

fn bits(words: &[AtomicU64]) -> usize {
    let ones = |word: &AtomicU64| word.load(std::sync::atomic::Ordering::Relaxed).count_ones();
    words.iter().map(ones).sum::<u32>() as usize
}

/// Asserts that every session has its bit, and that no other bit is set.
fn check(sim: &Sim, words: &[AtomicU64]) {
    let filter = VniFilter::new(words);
    let sessions: Vec<Vni> = sim.relay.sessions().map(|session| session.vni).collect();
    for vni in &sessions {
        assert!(filter.contains(*vni), "{vni:?}");
    }
    let mut places: Vec<_> = sessions
        .iter()
        .map(|v| v.number() % (64 * WORDS as u32))
        .collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(bits(words), places.len());
}

#[test]
fn filter_has_sessions_from_allocation_to_end_and_nothing_else() {
    let shared = used_words();
    let words = &shared.0;
    let mut sim = Sim::with_filter(shared.clone());
    check(&sim, words);
    for round in 0..40_u8 {
        for other in 0..50 {
            let [one, two] = [Client::new(round), Client::new(100 + other)];
            if other % 10 == 0 {
                sim.open(&one, &two);
            } else {
                sim.vni(&one, &two);
            }
        }
        check(&sim, words);
        sim.pass(seconds(9));
        check(&sim, words);
        if round % 16 == 7 {
            sim.restart(seconds(2));
            check(&sim, words);
        }
    }
    let others = (0..39).map(|number| Client::new(number).node_key);
    sim.relay.revoke(&others.collect(), sim.now);
    check(&sim, words);
    sim.pass(seconds(400));
    assert_eq!((sim.relay.sessions().count(), bits(words)), (0, 0));
}
