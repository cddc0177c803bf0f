//! Sessions end when their time is over, not earlier, and at no cost to data.

use relay_proto::{Activity, CloseReason, Config, DropReason, Event, Timestamp, Traffic};

use crate::sim::{Client, Outcome, Sim, data, seconds};

#[test]
fn unbound_session_ends_after_its_bind_lifetime() {
    let (mut sim, alice, bob) = start();
    let vni = sim.vni(&alice, &bob);
    sim.bind(vni, 1, &alice, &bob);
    sim.pass(seconds(29));
    assert!(sim.session(vni).is_some());
    sim.pass(seconds(1));
    assert!(sim.session(vni).is_none());
    assert_eq!(
        sim.events(),
        [Event::Closed {
            vni,
            reason: CloseReason::Unbound
        }]
    );
    assert_eq!(sim.relay.counters().expired_unbound, 1);
    let late = sim.receive(bob.address, &bob.bind(vni, 1, &alice));
    assert_eq!(late, Outcome::Drop(DropReason::UnknownVni));
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn asking_again_does_not_prolong_an_unbound_session() {
    let (mut sim, alice, bob) = start();
    let first = sim.allocate(&alice, &bob).unwrap();
    sim.pass(seconds(29));
    assert_eq!(sim.allocate(&bob, &alice).unwrap().vni, first.vni);
    sim.pass(seconds(2));
    let next = sim.allocate(&alice, &bob).unwrap();
    assert_ne!(next.vni, first.vni);
    assert_eq!(next.lamport, first.lamport + 1);
}

#[test]
fn session_bound_in_the_last_second_lives_on() {
    let (mut sim, alice, bob) = start();
    let vni = sim.vni(&alice, &bob);
    sim.pass(seconds(29));
    sim.bind(vni, 1, &alice, &bob);
    sim.bind(vni, 1, &bob, &alice);
    sim.pass(seconds(299));
    assert!(sim.session(vni).is_some());
    sim.pass(seconds(1));
    assert!(sim.session(vni).is_none());
}

#[test]
fn one_silent_leg_ends_the_session() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    sim.events();
    for _ in 0..29 {
        sim.pass(seconds(10));
        assert_eq!(
            sim.receive(alice.address, &data(vni, b"x")),
            Outcome::Forward(bob.address)
        );
    }
    sim.pass(seconds(10));
    assert_eq!(
        sim.events(),
        [Event::Closed {
            vni,
            reason: CloseReason::Silent
        }]
    );
    assert_eq!(sim.relay.counters().expired_silent, 1);
}

#[test]
fn data_on_both_legs_keeps_a_session_for_a_year() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    for _ in 0..365 * 24 * 3_600 / 299 {
        sim.pass(seconds(299));
        assert_eq!(
            sim.receive(alice.address, &data(vni, b"x")),
            Outcome::Forward(bob.address)
        );
        assert_eq!(
            sim.receive(bob.address, &data(vni, b"x")),
            Outcome::Forward(alice.address)
        );
    }
}

#[test]
fn completed_handshake_breaks_the_silence_and_a_bind_alone_does_not() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    sim.pass(seconds(200));
    sim.bind(vni, 2, &alice, &bob);
    sim.challenge(vni, 2, &bob, &alice);
    sim.receive(Client::new(9).address, &data(vni, b"foreign"));
    sim.pass(seconds(99));
    assert!(sim.session(vni).is_some());
    sim.pass(seconds(1));
    assert!(sim.session(vni).is_none());
}

#[test]
fn data_packets_leave_the_timer_alone() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    let due = sim.relay.poll_timeout();
    for _ in 0..100 {
        sim.now = sim.now + seconds(1) / 10;
        assert_eq!(
            sim.receive(alice.address, &data(vni, b"x")),
            Outcome::Forward(bob.address)
        );
        assert_eq!(sim.relay.poll_timeout(), due);
    }
}

#[test]
fn steady_lifetime_shorter_than_the_bind_lifetime_is_kept_to() {
    let mut sim = Sim::with(Config {
        steady_lifetime: seconds(5),
        ..Config::default()
    });
    let (alice, bob) = (Client::new(1), Client::new(2));
    let vni = sim.open(&alice, &bob);
    sim.pass(seconds(5));
    assert!(sim.session(vni).is_none());
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn late_wake_up_ends_everything_that_fell_due() {
    let (mut sim, alice, _) = start();
    for n in 2..=40 {
        sim.allocate(&alice, &Client::new(n)).unwrap();
        sim.pass(seconds(1) / 2);
    }
    sim.now = sim.now + seconds(1_000);
    sim.relay.handle_timeout(sim.now);
    assert_eq!(sim.relay.session_counts(), Default::default());
    assert_eq!(sim.events().len(), 39);
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn drained_relay_keeps_its_sessions() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    sim.relay.set_accepting(false);
    assert_eq!(sim.allocate(&alice, &bob), Err(DropReason::NotAccepting));
    sim.bind(vni, 2, &alice, &bob);
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"x")),
        Outcome::Forward(alice.address)
    );
}

fn start() -> (Sim, Client, Client) {
    (Sim::new(), Client::new(1), Client::new(2))
}

#[test]
fn what_another_path_forwarded_keeps_a_session_and_its_silence_ends_it() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    sim.events();
    let opened = sim.now;
    for minute in 1..=60 {
        // The driver asks for what is due and says what has been heard.
        while let Some(due) = sim
            .relay
            .poll_timeout()
            .filter(|due| *due <= opened + seconds(60 * minute))
        {
            assert_eq!(sim.relay.due(due), Some(vni));
            let seen = opened + seconds(60 * minute - 1);
            sim.relay.handle_activity(vni, [seen; 2]);
            sim.relay.handle_due(due);
        }
        sim.now = opened + seconds(60 * minute);
        assert!(sim.session(vni).is_some(), "minute {minute}");
    }
    // Older news move nothing back, and what is not of this path is not counted as if it were.
    let before = sim.session(vni);
    let due = sim.relay.poll_timeout();
    sim.relay.handle_activity(vni, [Timestamp::START; 2]);
    assert_eq!((sim.session(vni), sim.relay.poll_timeout()), (before, due));
    assert_eq!(
        before.map(|session| session.legs.map(|leg| leg.packets)),
        Some([0; 2])
    );
    sim.pass(seconds(600));
    assert_eq!(
        sim.events(),
        [Event::Closed {
            vni,
            reason: CloseReason::Silent
        }]
    );
    sim.relay.handle_activity(vni, [sim.now; 2]);
    assert!(sim.session(vni).is_none());
}

#[test]
fn sessions_are_told_with_what_another_path_counted() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    sim.receive(alice.address, &data(vni, b"1234"));
    let mut session = sim.session(vni).expect("it is open");
    let counted = |packets| Activity {
        traffic: Traffic {
            packets,
            bytes: packets * 100,
        },
        last_seen: sim.now,
    };
    session.add([counted(2), counted(3)]);
    let told = session
        .legs
        .map(|leg| (leg.client == alice.key, leg.packets, leg.bytes));
    let expected = if told[0].0 {
        [(true, 3, 212), (false, 3, 300)]
    } else {
        [(false, 2, 200), (true, 4, 312)]
    };
    assert_eq!(told, expected);
}

#[test]
fn sessions_that_fall_due_together_can_be_judged_one_by_one() {
    let mut sim = Sim::new();
    let alice = Client::new(1);
    let vnis: Vec<_> = (2..=100)
        .map(|n| sim.vni(&alice, &Client::new(n)))
        .collect();
    let end = sim.now + seconds(30);
    assert_eq!(sim.relay.due(sim.now), None);
    for left in (0..vnis.len()).rev() {
        let due = sim.relay.due(end).expect("all are due");
        sim.relay.handle_due(end);
        let reason = CloseReason::Unbound;
        assert_eq!(sim.events(), [Event::Closed { vni: due, reason }]);
        assert_eq!(sim.relay.session_counts().connecting, left);
    }
    assert_eq!(sim.relay.due(end), None);
    sim.relay.handle_due(end);
    assert!(sim.events().is_empty());
}

#[test]
fn what_is_kept_of_clients_goes_when_they_are_quiet_and_changes_nothing() {
    let mut sim = Sim::new();
    assert_eq!(sim.relay.poll_forget(), None);
    let (alice, bob) = (Client::new(1), Client::new(2));
    let vni = sim.vni(&alice, &bob);
    sim.bind(vni, 1, &alice, &bob);
    let begun = sim.challenge(vni, 1, &bob, &alice);
    for _ in 0..2 {
        let due = sim.relay.poll_forget().unwrap();
        assert!(due > sim.now && due < sim.now + seconds(1), "{due:?}");
        sim.now = due;
        assert!(!sim.relay.forget(due), "two clients are no lot of memory");
    }
    assert_eq!(sim.relay.poll_forget(), None);
    // Neither a handshake in progress nor the pair is forgotten.
    let answer = bob.answer(vni, &begun);
    assert_eq!(sim.receive(bob.address, &answer), Outcome::Consumed);
    assert!(sim.relay.poll_forget().is_some());
    assert_eq!(sim.vni(&bob, &alice), vni);
    assert_eq!(sim.relay.session_counts().open, 1);
}
