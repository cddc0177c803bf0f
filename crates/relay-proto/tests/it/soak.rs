//! Years in virtual time: every number that only grows meets its end, and nothing is left behind.

use std::collections::BTreeMap;

use relay_proto::{Activity, DropReason, Timestamp, Traffic};

use crate::sim::{Client, Outcome, Sim, data, seconds};

/// Sessions of one pair, which all share a shard: a 64th of all numbers.
const LIVES: u32 = 12_000;

#[test]
fn numbers_of_sessions_come_back_and_never_within_their_rest() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let mut last_use = BTreeMap::new();
    let mut again = 0;
    for life in 0..LIVES {
        let vni = sim.vni(&alice, &bob);
        if let Some(freed) = last_use.insert(vni, sim.now + seconds(30)) {
            assert!(sim.now >= freed + seconds(60), "life {life}");
            again += 1;
        }
        sim.pass(seconds(30));
        assert!(sim.session(vni).is_none());
        sim.events();
    }
    assert!(again > 10, "{again} numbers were used twice");
    assert_eq!(sim.relay.counters().expired_unbound, u64::from(LIVES));
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn sessions_end_in_time_when_the_low_half_of_the_lamport_id_wraps() {
    let mut sim = Sim::starting(
        u64::from(u32::MAX) - 20,
        Timestamp::from_start(seconds(1_000)),
    );
    let hub = Client::new(1);
    for n in 2..=60 {
        if n % 2 == 0 {
            sim.open(&hub, &Client::new(n));
        } else {
            sim.vni(&hub, &Client::new(n));
        }
        sim.pass(seconds(1));
    }
    sim.pass(seconds(30));
    assert_eq!(sim.relay.session_counts().connecting, 0);
    assert_eq!(sim.relay.session_counts().open, 30);
    sim.pass(seconds(300));
    assert_eq!(sim.relay.session_counts(), Default::default());
    assert_eq!(sim.relay.poll_timeout(), None);
    assert_eq!(sim.relay.next_lamport(), u64::from(u32::MAX) - 20 + 59);
}

#[test]
fn last_lamport_id_is_followed_by_the_first_and_sessions_are_told_apart() {
    let mut sim = Sim::starting(u64::MAX - 5, Timestamp::from_start(seconds(1_000)));
    let hub = Client::new(1);
    let clients: Vec<_> = (2..=20).map(Client::new).collect();
    let vnis: Vec<_> = clients
        .iter()
        .map(|client| sim.open(&hub, client))
        .collect();
    assert_eq!(sim.relay.next_lamport(), 13);
    for (vni, client) in vnis.iter().zip(&clients) {
        let passes = sim.receive(hub.address, &data(*vni, b"x"));
        assert_eq!(passes, Outcome::Forward(client.address));
    }
    sim.pass(seconds(400));
    assert_eq!(sim.relay.session_counts(), Default::default());
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn greatest_generation_is_the_last_of_a_leg_and_of_no_other_session() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let vni = sim.vni(&alice, &bob);
    sim.bind(vni, u32::MAX, &alice, &bob);
    sim.bind(vni, u32::MAX, &bob, &alice);
    for generation in [0, 1, u32::MAX] {
        let bind = alice.bind(vni, generation, &bob);
        let outcome = sim.receive(alice.address, &bind);
        assert_eq!(outcome, Outcome::Drop(DropReason::StaleGeneration));
    }
    let passes = sim.receive(alice.address, &data(vni, b"x"));
    assert_eq!(passes, Outcome::Forward(bob.address));
    sim.pass(seconds(301));
    let next = sim.open(&alice, &bob);
    let passes = sim.receive(alice.address, &data(next, b"x"));
    assert_eq!(passes, Outcome::Forward(bob.address));
}

#[test]
fn at_the_end_of_time_everything_ends() {
    let last = Timestamp::from_start(seconds(u64::MAX));
    let mut sim = Sim::starting(1, last.before(seconds(40)));
    let (alice, bob) = (Client::new(1), Client::new(2));
    let open = sim.open(&alice, &bob);
    sim.vni(&alice, &Client::new(3));
    sim.pass(seconds(35));
    assert_eq!(sim.relay.session_counts().open, 1);
    let passes = sim.receive(bob.address, &data(open, b"x"));
    assert_eq!(passes, Outcome::Forward(alice.address));
    // It would end in five minutes, which there are not.
    assert_eq!(sim.relay.poll_timeout(), Some(last));
    sim.relay.handle_timeout(last);
    assert_eq!(sim.relay.session_counts(), Default::default());
    assert_eq!(sim.relay.poll_timeout(), None);
}

#[test]
fn traffic_stops_at_the_greatest_number() {
    let mut sim = Sim::new();
    let (alice, bob) = (Client::new(1), Client::new(2));
    let vni = sim.open(&alice, &bob);
    for _ in 0..3 {
        let (source, now) = (alice.address, sim.now);
        let verdict = sim.relay.handle_data(vni, source, u32::MAX, u64::MAX, now);
        assert!(matches!(verdict, relay_proto::Verdict::Forward { to, .. } if to == bob.address));
    }
    let mut session = sim.session(vni).expect("it is open");
    let traffic = Traffic {
        packets: u64::MAX,
        bytes: u64::MAX,
    };
    let more = Activity {
        traffic,
        last_seen: sim.now,
    };
    session.add([more; 2]);
    session.add([more; 2]);
    for leg in session.legs {
        assert_eq!((leg.packets, leg.bytes), (u64::MAX, u64::MAX));
    }
    let mut sum = sim.relay.counters().clone();
    sum.add(sim.relay.counters());
    assert_eq!(sum.forwarded[0][0].bytes, u64::MAX);
}
