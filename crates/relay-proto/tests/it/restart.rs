//! State that outlives a process, and states that an import refuses.

use std::{sync::Arc, time::Duration};

use relay_proto::{Config, Core, DropReason, Event, Shard, SharedLimits, State, StateError};

use crate::sim::{Client, Outcome, STATE_KEY, Sim, data, seconds};

#[test]
fn sessions_and_handshakes_go_on_where_they_were() {
    let mut sim = Sim::new();
    let (alice, bob, carol) = (Client::new(1), Client::new(2), Client::new(3));
    let open = sim.open(&alice, &bob);
    let begun = sim.vni(&alice, &carol);
    let challenge = sim.challenge(begun, 4, &alice, &carol);
    let before = sim.sessions();

    sim.restart(Duration::ZERO);
    assert_eq!(sim.sessions(), before);
    assert!(matches!(sim.events()[..], [Event::Opened { vni, .. }] if vni == open));
    assert_eq!(
        sim.receive(alice.address, &data(open, b"x")),
        Outcome::Forward(bob.address)
    );
    assert_eq!(sim.vni(&bob, &alice), open);
    let answer = alice.answer(begun, &challenge);
    assert_eq!(sim.receive(alice.address, &answer), Outcome::Consumed);
    let replay = alice.bind(open, 1, &bob);
    assert_eq!(
        sim.receive(alice.address, &replay),
        Outcome::Drop(DropReason::StaleGeneration)
    );
}

#[test]
fn time_without_a_relay_counts() {
    let mut sim = Sim::new();
    let (alice, bob, carol) = (Client::new(1), Client::new(2), Client::new(3));
    let open = sim.open(&alice, &bob);
    let unbound = sim.vni(&alice, &carol);
    sim.pass(seconds(20));
    sim.restart(seconds(9));
    assert!(sim.session(open).is_some() && sim.session(unbound).is_some());
    sim.pass(seconds(1));
    assert!(sim.session(open).is_some() && sim.session(unbound).is_none());
    sim.restart(seconds(269));
    assert!(sim.session(open).is_some());
    sim.restart(seconds(1));
    assert!(sim.session(open).is_none());
    let next = sim.allocate(&alice, &bob).unwrap();
    assert_eq!(next.lamport, 102, "numbers go on");
}

#[test]
fn state_that_is_not_whole_or_not_ours_is_refused() {
    let mut sim = Sim::new();
    sim.open(&Client::new(1), &Client::new(2));
    let bytes = sim.relay.export(sim.now).encode(&STATE_KEY);
    let refused = |bytes: &[u8]| State::decode(bytes, &STATE_KEY).err();
    assert_eq!(refused(&bytes), None);
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        assert!(refused(&damaged).is_some(), "byte {at}");
        assert!(refused(&bytes[..at]).is_some(), "{at} bytes");
    }
    assert_eq!(
        State::decode(&bytes, &[9; 32]).err(),
        Some(StateError::Foreign)
    );
    assert_eq!(refused(b"{}"), Some(StateError::NotState));
    let mut newer = bytes.to_vec();
    newer[5] = 2;
    assert_eq!(refused(&newer), Some(StateError::Version(2)));
}

#[test]
fn cores_divide_the_sessions_whatever_their_number_was() {
    let mut sim = Sim::new();
    for n in 2..40 {
        sim.open(&Client::new(1), &Client::new(n));
    }
    let state = sim.relay.export(sim.now);
    let config = Config::default();
    let limits = Arc::new(SharedLimits::new(&config, state.next_lamport));
    let mut sum = 0;
    for core in 0..3 {
        let (config, keys) = (config.clone(), state.keys.clone());
        let mut relay = Core::new(config, keys, [core; 32], limits.clone(), sim.now);
        let mine = |shard: Shard| shard.number() % 3 == usize::from(core);
        let count = relay.import(&state, core.into(), mine, sim.now);
        assert_eq!(relay.session_counts().open, count);
        assert!(relay.sessions().all(|session| mine(Shard::of(session.vni))));
        assert!(count > 0);
        sum += count;
    }
    assert_eq!(sum, 38);
}

#[test]
fn limits_that_became_smaller_hold() {
    let mut sim = Sim::new();
    for n in 2..9 {
        sim.open(&Client::new(1), &Client::new(n));
    }
    sim.config.max_sessions_per_node = 3;
    sim.restart(Duration::ZERO);
    assert_eq!(sim.relay.session_counts().open, 3);
    let refused = sim.allocate(&Client::new(1), &Client::new(20));
    assert_eq!(refused, Err(DropReason::NodeLimit));
}
