//! What another data path learns of the VNIs that have a session.

use std::sync::atomic::AtomicU64;

use relay_proto::{Vni, VniFilter};

use crate::sim::{Client, Sim, seconds};

/// So few that many VNIs share a bit.
const WORDS: usize = 64;

/// As an earlier relay has left it.
fn words() -> &'static [AtomicU64] {
    let words: Box<[_]> = (0..WORDS).map(|n| AtomicU64::new(n as u64 * 77)).collect();
    Box::leak(words)
}

fn bits(words: &[AtomicU64]) -> usize {
    let ones = |word: &AtomicU64| word.load(std::sync::atomic::Ordering::Relaxed).count_ones();
    words.iter().map(ones).sum::<u32>() as usize
}

/// Every session is known, and nothing that no session explains.
fn check(sim: &Sim, words: &'static [AtomicU64]) {
    let known = VniFilter::new(words);
    let sessions: Vec<Vni> = sim.relay.sessions().map(|session| session.vni).collect();
    for vni in &sessions {
        assert!(known.contains(*vni), "{vni:?}");
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
fn sessions_are_known_from_their_allocation_to_their_end_and_nothing_else_is() {
    let words = words();
    let mut sim = Sim::telling(VniFilter::new(words));
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
    let keep = Client::new(39).node_key;
    sim.relay.revoke(&[keep].into(), sim.now);
    check(&sim, words);
    sim.pass(seconds(400));
    assert_eq!((sim.relay.sessions().count(), bits(words)), (0, 0));
}
