//! Limits, and which numbers a session gets.

use std::{collections::BTreeSet, num::NonZero, time::Duration};

use relay_proto::{CloseReason, Config, DropReason, Event, geneve::HEADER_LEN};

use crate::sim::{Client, Outcome, Sim, at, data, seconds};

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
    let holders: BTreeSet<_> = sim.limits.holders().into_iter().collect();
    assert_eq!(holders, [alice.node_key, Client::new(5).node_key].into());
    sim.relay.revoke(&[bob.node_key].into(), sim.now);
    assert_eq!(sim.events(), [], "it has no session that it asked for");

    sim.relay
        .revoke(&[alice.node_key, bob.node_key].into(), sim.now);
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

#[test]
fn nodes_of_a_tag_share_its_limit_and_their_oldest_unbound_session_is_evicted() {
    let mut sim = Sim::with(Config {
        max_sessions_per_tag: Some(2),
        ..Config::default()
    });
    let [alice, bob, carol, dave] = [1, 2, 3, 4].map(Client::new);
    let tagged = [(&alice, vec![0, 7]), (&bob, vec![7]), (&carol, vec![8])];
    let tags = tagged.map(|(client, tags)| (client.node_key, tags));
    // One is there before its tags are known.
    let first = sim.open(&alice, &dave);
    sim.limits.set_tags(tags.into());
    let pending = sim.vni(&alice, &Client::new(9));
    let second = sim.open(&bob, &dave);
    assert!(sim.session(pending).is_none(), "it was not open yet");
    for refused in [&alice, &bob] {
        let asked = sim.allocate(refused, &Client::new(10));
        assert_eq!(asked, Err(DropReason::TagLimit));
    }
    assert!(sim.allocate(&bob, &dave).is_ok(), "it exists");
    assert!(sim.allocate(&carol, &dave).is_ok(), "another tag");
    assert!(sim.allocate(&dave, &Client::new(10)).is_ok(), "no tag");
    let counters = sim.relay.counters();
    assert_eq!(
        (counters.evicted, counters.dropped(DropReason::TagLimit)),
        (1, 2)
    );
    assert!(sim.session(first).is_some() && sim.session(second).is_some());

    // A node that loses its tag frees the place; so does a session that ends.
    sim.limits.change_tags([(alice.node_key, vec![])]);
    assert!(sim.allocate(&bob, &Client::new(11)).is_ok());
    sim.pass(seconds(300));
    sim.open(&bob, &dave);
    sim.open(&bob, &carol);
    assert_eq!(sim.allocate(&bob, &alice), Err(DropReason::TagLimit));
}

#[test]
fn node_that_asks_without_end_is_answered_as_often_as_a_node_may_ask() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let request = alice.request(bob.key);
    let ask = |sim: &mut Sim| {
        let most = 10_000;
        let answers = (0..most).map(|_| sim.derp(&alice.peer(), &request));
        answers.take_while(Result::is_ok).count()
    };
    assert_eq!(ask(&mut sim), 4_096);
    // What does not open costs as much, so it is not looked at either.
    let mut broken = request.clone();
    *broken.last_mut().unwrap() ^= 1;
    let refused = Err(DropReason::RequestRate);
    assert_eq!(sim.derp(&alice.peer(), &broken), refused);
    // Nobody else spends what is a node's: its disco key is another.
    assert_eq!(
        sim.derp(&bob.peer(), &request),
        Err(DropReason::DiscoMismatch)
    );
    assert!(sim.allocate(&bob, &alice).is_ok());
    let mut answered = 0;
    for _ in 0..30 {
        sim.pass(seconds(1));
        answered += ask(&mut sim);
    }
    assert_eq!(answered, 4_096);
    let counters = sim.relay.counters();
    assert_eq!(counters.dropped(DropReason::RequestRate), 1 + 31);
    sim.pass(seconds(30));
    assert_eq!(ask(&mut sim), 4_096);
}

#[test]
fn data_above_a_bandwidth_is_dropped_for_its_own_reason_and_flows_again_later() {
    const PACKET: usize = 1 << 10;
    let mebibyte = NonZero::new(1 << 20);
    let mut sim = Sim::with(Config {
        max_bytes_per_second_per_session: mebibyte,
        max_bytes_per_second: NonZero::new(2 << 20),
        ..Config::default()
    });
    let [alice, bob, carol] = [1, 2, 3].map(Client::new);
    let sessions = [
        (&alice, sim.open(&alice, &bob)),
        (&bob, sim.open(&bob, &carol)),
        (&carol, sim.open(&carol, &alice)),
    ];
    let packet = |vni| data(vni, &[0; PACKET - HEADER_LEN]);
    let send = |sim: &mut Sim, of: usize| {
        let (client, vni) = sessions[of];
        sim.receive(client.address, &packet(vni))
    };
    // At once: 128 KiB of a session.
    let passed = (0..200).take_while(|_| matches!(send(&mut sim, 0), Outcome::Forward(_)));
    assert_eq!(passed.count(), 128);
    assert_eq!(send(&mut sim, 0), Outcome::Drop(DropReason::SessionRate));
    // As much of the relay, which goes on at twice the rate.
    let spoofed = sim.receive(at("192.0.2.9:9"), &packet(sessions[1].1));
    assert_eq!(
        spoofed,
        Outcome::Drop(DropReason::WrongSource),
        "it costs nothing"
    );
    assert_eq!(send(&mut sim, 1), Outcome::Drop(DropReason::RelayRate));
    let counted = sim
        .session(sessions[0].1)
        .unwrap()
        .legs
        .map(|leg| leg.packets);
    assert_eq!(
        counted.iter().sum::<u64>(),
        128,
        "what was dropped does not count"
    );
    // For ten seconds, three sessions ask for more than they may.
    let mut passed = [0u64; 3];
    for _ in 0..10_000 {
        sim.pass(Duration::from_millis(1));
        for (of, passed) in passed.iter_mut().enumerate() {
            for _ in 0..2 {
                *passed += u64::from(matches!(send(&mut sim, of), Outcome::Forward(_)));
            }
        }
    }
    let most = 10 * 1024 + 128;
    assert!(passed.iter().all(|passed| *passed <= most), "{passed:?}");
    let total: u64 = passed.iter().sum();
    assert!(
        (20_000..=2 * 10 * 1024 + 128).contains(&total),
        "{passed:?}"
    );
}
