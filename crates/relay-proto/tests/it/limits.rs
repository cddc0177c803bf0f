//! Limits, and which numbers a session gets.

use std::collections::BTreeSet;

use relay_proto::{CloseReason, Config, DropReason, Event};

use crate::sim::{Client, Outcome, Sim, data, seconds};

#[test]
fn oldest_unbound_session_of_a_node_gives_way_at_its_limit() {
    let mut sim = Sim::with(Config {
        max_sessions_per_node: 3,
        ..Config::default()
    });
    let alice = Client::new(1);
    let open = sim.open(&alice, &Client::new(2));
    let oldest = sim.vni(&alice, &Client::new(3));
    let younger = sim.vni(&alice, &Client::new(4));
    let foreign = sim.vni(&Client::new(5), &Client::new(6));
    sim.events();

    let newest = sim.vni(&alice, &Client::new(7));
    let evicted = Event::Closed {
        vni: oldest,
        reason: CloseReason::Evicted,
    };
    assert_eq!(sim.events(), [evicted]);
    let left: BTreeSet<_> = sim.relay.sessions().map(|session| session.vni).collect();
    assert_eq!(left, BTreeSet::from([open, younger, foreign, newest]));
    assert_eq!(sim.relay.counters().evicted, 1);
}

#[test]
fn sessions_end_when_who_asked_for_them_may_no_longer() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let theirs = [sim.open(&alice, &bob), sim.vni(&alice, &Client::new(3))];
    let other = sim.open(&Client::new(5), &Client::new(6));
    sim.events();
    let all = [alice.node_key, Client::new(5).node_key];
    sim.relay.revoke(&all.into(), sim.now);
    assert_eq!(sim.events(), [], "nothing has changed");

    sim.relay.revoke(&[all[1]].into(), sim.now);
    let closed = |event: &Event| match event {
        Event::Closed {
            vni,
            reason: CloseReason::Revoked,
        } => *vni,
        other => panic!("{other:?}"),
    };
    let ended: BTreeSet<_> = sim.events().iter().map(closed).collect();
    assert_eq!(ended, theirs.into());
    let left: Vec<_> = sim.relay.sessions().map(|session| session.vni).collect();
    assert_eq!(left, [other]);
    assert_eq!(sim.relay.counters().revoked, 2);
    let from_alice = data(theirs[0], b"late");
    assert_eq!(
        sim.receive(alice.address, &from_alice),
        Outcome::Drop(DropReason::UnknownVni)
    );
}

#[test]
fn open_sessions_never_give_way() {
    let mut sim = Sim::with(Config {
        max_sessions: 3,
        max_sessions_per_node: 2,
        ..Config::default()
    });
    let (alice, bob) = (Client::new(1), Client::new(2));
    sim.open(&alice, &Client::new(3));
    sim.open(&alice, &Client::new(4));
    assert_eq!(
        sim.allocate(&alice, &Client::new(5)),
        Err(DropReason::NodeLimit)
    );
    let vni = sim.open(&bob, &Client::new(3));
    assert_eq!(
        sim.allocate(&bob, &Client::new(4)),
        Err(DropReason::SessionLimit)
    );
    assert!(
        sim.allocate(&bob, &Client::new(3)).is_ok(),
        "an existing session needs no room"
    );
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"x")),
        Outcome::Forward(Client::new(3).address)
    );
}

#[test]
fn session_counts_against_the_node_that_asked_first() {
    let mut sim = Sim::with(Config {
        max_sessions_per_node: 1,
        ..Config::default()
    });
    let (alice, bob, carol) = (Client::new(1), Client::new(2), Client::new(3));
    let vni = sim.open(&alice, &bob);
    assert_eq!(sim.allocate(&alice, &carol), Err(DropReason::NodeLimit));
    assert!(sim.allocate(&bob, &carol).is_ok());
    sim.pass(seconds(300));
    assert!(sim.session(vni).is_none());
    assert!(
        sim.allocate(&alice, &carol).is_ok(),
        "the limit is given back"
    );
}

#[test]
fn allocation_storm_of_one_node_leaves_the_others_alone() {
    let mut sim = Sim::with(Config {
        max_sessions: 64,
        max_sessions_per_node: 32,
        ..Config::default()
    });
    let (alice, bob) = (Client::new(1), Client::new(2));
    let vni = sim.open(&alice, &bob);
    let pending = sim.vni(&alice, &Client::new(3));
    let storm = Client::new(9);
    for n in 0..200 {
        sim.allocate(&storm, &Client::new(20 + n)).unwrap();
    }
    assert!(sim.session(pending).is_some());
    assert_eq!(sim.relay.session_counts().connecting, 33);
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
}

#[test]
fn vnis_are_not_guessable_and_not_reused_at_once() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let mut seen = BTreeSet::new();
    let mut steps = BTreeSet::new();
    let mut last = 0;
    for _ in 0..200 {
        let number = sim.vni(&alice, &bob).number();
        assert!(
            seen.insert(number),
            "{number} came back within the rest period"
        );
        steps.insert(i64::from(number) - i64::from(last));
        last = number;
        sim.pass(seconds(30));
    }
    assert!(steps.len() > 150, "VNIs follow a pattern");
    assert!(seen.last().unwrap() - seen.first().unwrap() > 1 << 20);
}

#[test]
fn lamport_ids_only_grow() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let mut last = 0;
    for _ in 0..50 {
        let lamport = sim.allocate(&alice, &bob).unwrap().lamport;
        assert!(lamport > last);
        assert_eq!(sim.relay.next_lamport(), lamport + 1);
        last = lamport;
        sim.pass(seconds(31));
    }
}

#[test]
fn same_seed_and_calls_give_the_same_bytes() {
    let run = || {
        let mut sim = Sim::new();
        let (alice, bob) = (Client::new(1), Client::new(2));
        let response = sim.derp(&alice.peer(), &alice.request(bob.key)).unwrap();
        let vni = sim.vni(&alice, &bob);
        (response, sim.challenge(vni, 1, &alice, &bob))
    };
    assert_eq!(run(), run());
}

#[test]
fn evicted_session_leaves_no_timer_behind() {
    let mut sim = Sim::with(Config {
        max_sessions_per_node: 1,
        ..Config::default()
    });
    let alice = Client::new(1);
    sim.vni(&alice, &Client::new(2));
    sim.pass(seconds(10));
    sim.vni(&alice, &Client::new(3));
    assert_eq!(sim.relay.poll_timeout(), Some(sim.now + seconds(30)));
}
