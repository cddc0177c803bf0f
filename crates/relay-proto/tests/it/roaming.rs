//! A leg moves for a client that proves its new address, and for nobody else.

use relay_proto::{DropReason, Event, Vni};

use crate::sim::{Client, Outcome, Sim, at, data, seconds};

#[test]
fn newer_handshake_moves_the_leg() {
    let (mut sim, mut alice, bob, vni) = open();
    let old = alice.address;
    alice.address = at("192.0.2.77:3478");
    sim.bind(vni, 2, &alice, &bob);
    assert!(
        matches!(sim.events()[..], [Event::Moved { legs, .. }] if legs.contains(&alice.address))
    );
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(alice.address)
    );
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
    assert_eq!(
        sim.receive(old, &data(vni, b"x")),
        Outcome::Drop(DropReason::WrongSource)
    );
    assert_eq!(sim.relay.counters().rebinds, 1);
}

#[test]
fn old_leg_works_until_the_new_one_is_proven() {
    let (mut sim, mut alice, bob, vni) = open();
    let old = alice.address;
    alice.address = at("192.0.2.77:3478");
    let _unanswered = sim.challenge(vni, 2, &alice, &bob);
    assert_eq!(
        sim.receive(old, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(old)
    );
    let early = sim.receive(alice.address, &data(vni, b"x"));
    assert_eq!(early, Outcome::Drop(DropReason::WrongSource));
}

#[test]
fn leg_may_change_address_family() {
    let (mut sim, mut alice, bob, vni) = open();
    alice.address = at("[2001:db8::a]:41641");
    sim.bind(vni, 2, &alice, &bob);
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(alice.address)
    );
}

#[test]
fn both_legs_may_move_at_once() {
    let (mut sim, mut alice, mut bob, vni) = open();
    (alice.address, bob.address) = (bob.address, alice.address);
    sim.bind(vni, 2, &alice, &bob);
    sim.bind(vni, 2, &bob, &alice);
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(alice.address)
    );
}

#[test]
fn generations_of_the_two_clients_are_independent() {
    let (mut sim, alice, bob, vni) = open();
    sim.bind(vni, 1_000, &alice, &bob);
    sim.bind(vni, 2, &bob, &alice);
}

#[test]
fn replayed_handshake_moves_no_leg_back() {
    let (mut sim, mut alice, bob) = (Sim::new(), Client::new(1), Client::new(2));
    let vni = sim.vni(&alice, &bob);
    let home = alice.address;
    let bind = alice.bind(vni, 1, &bob);
    let answer = alice.answer(vni, &sim.challenge(vni, 1, &alice, &bob));
    assert_eq!(sim.receive(home, &answer), Outcome::Consumed);
    sim.bind(vni, 1, &bob, &alice);

    alice.address = at("192.0.2.77:3478");
    sim.bind(vni, 2, &alice, &bob);
    let stale = Outcome::Drop(DropReason::StaleGeneration);
    assert_eq!(sim.receive(home, &bind), stale);
    assert_eq!(sim.receive(home, &answer), stale);
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(alice.address)
    );
}

#[test]
fn replayed_bind_does_not_disturb_a_newer_handshake() {
    let (mut sim, alice, bob, vni) = open();
    let abandoned = alice.bind(vni, 2, &bob);
    sim.challenge(vni, 2, &alice, &bob);
    let answer = alice.answer(vni, &sim.challenge(vni, 3, &alice, &bob));
    let replayed = sim.receive(at("192.0.2.66:6"), &abandoned);
    assert_eq!(replayed, Outcome::Drop(DropReason::StaleGeneration));
    assert_eq!(sim.receive(alice.address, &answer), Outcome::Consumed);
}

#[test]
fn answer_counts_once() {
    let (mut sim, alice, bob, vni) = open();
    let answer = alice.answer(vni, &sim.challenge(vni, 2, &alice, &bob));
    assert_eq!(sim.receive(alice.address, &answer), Outcome::Consumed);
    assert_eq!(
        sim.receive(alice.address, &answer),
        Outcome::Drop(DropReason::StaleGeneration)
    );
}

#[test]
fn answer_with_rotated_secret_still_binds() {
    let (mut sim, alice, bob, vni) = open();
    let answer = alice.answer(vni, &sim.challenge(vni, 2, &alice, &bob));
    sim.pass(seconds(125));
    sim.challenge(vni, 2, &alice, &bob);
    assert_eq!(sim.receive(alice.address, &answer), Outcome::Consumed);
}

#[test]
fn challenge_is_never_as_old_as_two_rotations() {
    for uses in [&[][..], &[119], &[121], &[239], &[119, 121], &[1, 239]] {
        let (mut sim, alice, bob, vni) = open();
        let answer = alice.answer(vni, &sim.challenge(vni, 2, &alice, &bob));
        let issued = sim.now;
        for age in uses {
            sim.now = issued + seconds(*age);
            sim.challenge(vni, 2, &bob, &alice);
        }
        sim.now = issued + seconds(240);
        let late = sim.receive(alice.address, &answer);
        assert_eq!(
            late,
            Outcome::Drop(DropReason::BadChallenge),
            "used after {uses:?} s"
        );
    }
}

fn open() -> (Sim, Client, Client, Vni) {
    let (mut sim, alice, bob) = (Sim::new(), Client::new(1), Client::new(2));
    let vni = sim.open(&alice, &bob);
    sim.events();
    (sim, alice, bob, vni)
}
