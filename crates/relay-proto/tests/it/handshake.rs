//! Allocation and the three-way bind, as stock clients do them.

use relay_proto::{
    DropReason, Event, Family, Pair, REPLY_LEN, Side, Timestamp, Vni,
    disco::{BindCommon, Generation, Message},
    geneve::{Header, PROTOCOL_DISCO},
};

use crate::sim::{Client, Outcome, Sim, at, common, data, node_key, seconds, server_key};

#[test]
fn allocation_tells_what_a_client_needs() {
    let (mut sim, alice, bob) = start();
    let endpoint = sim.allocate(&alice, &bob).unwrap();
    assert_eq!(endpoint.server, server_key());
    assert_eq!(endpoint.clients, Pair::new(alice.key, bob.key));
    assert_eq!(endpoint.lamport, 100);
    assert_eq!(endpoint.bind_lifetime_ns, 30_000_000_000);
    assert_eq!(endpoint.steady_lifetime_ns, 300_000_000_000);
    let advertised = vec![at("203.0.113.10:40000"), at("[2001:db8::10]:40000")];
    assert_eq!(endpoint.addresses, advertised);
    assert!(Vni::new(endpoint.vni).is_some());
}

#[test]
fn same_pair_gets_the_same_session_with_the_newest_addresses() {
    let (mut sim, alice, bob) = start();
    let first = sim.allocate(&alice, &bob).unwrap();
    sim.relay.set_addresses(vec![at("198.51.100.1:40000")]);
    let again = sim.allocate(&bob, &alice).unwrap();
    assert_eq!((again.vni, again.lamport), (first.vni, first.lamport));
    assert_eq!(again.addresses, [at("198.51.100.1:40000")]);
    assert_eq!(sim.relay.counters().allocations, 1);
    assert_eq!(sim.relay.counters().reallocations, 1);

    let other = sim.allocate(&alice, &Client::new(3)).unwrap();
    assert_ne!(other.vni, first.vni);
    assert_eq!(other.lamport, first.lamport + 1);
}

#[test]
fn requests_are_refused_for_the_first_rule_they_break() {
    let (mut sim, alice, bob) = start();
    let request = alice.request(bob.key);
    let peer = alice.peer();
    let refused = |sim: &mut Sim, peer, packet: &[u8]| sim.derp(&peer, packet).unwrap_err();

    assert_eq!(
        sim.relay.handle_derp(None, &request, sim.now),
        Err(DropReason::UnknownPeer)
    );
    assert_eq!(refused(&mut sim, peer, b"hello"), DropReason::NotDisco);
    let mut stranger = peer;
    stranger.disco = Some(bob.key);
    assert_eq!(
        refused(&mut sim, stranger, &request),
        DropReason::DiscoMismatch
    );
    stranger.disco = None;
    assert_eq!(
        refused(&mut sim, stranger, &request),
        DropReason::DiscoMismatch
    );
    let mut damaged = request.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(refused(&mut sim, peer, &damaged), DropReason::BadSeal);
    let bind = alice.seal(
        node_key(),
        &Message::Bind(common(vni(1), 1, bob.key)).marshal(),
    );
    assert_eq!(
        refused(&mut sim, peer, &bind),
        DropReason::UnexpectedMessage
    );
    let foreign = allocate_request(&alice, [bob.key, Client::new(3).key]);
    assert_eq!(refused(&mut sim, peer, &foreign), DropReason::NotAParty);
    let alone = allocate_request(&alice, [alice.key; 2]);
    assert_eq!(refused(&mut sim, peer, &alone), DropReason::NotAParty);
    let mut ungranted = peer;
    ungranted.may_relay = false;
    assert_eq!(refused(&mut sim, ungranted, &request), DropReason::NoGrant);
    let mut unsigned = peer;
    unsigned.unsigned_peer_api_only = true;
    assert_eq!(refused(&mut sim, unsigned, &request), DropReason::NoGrant);
    for own in [server_key(), node_key()] {
        let request = alice.request(own);
        assert_eq!(refused(&mut sim, peer, &request), DropReason::OwnKey);
    }
    sim.relay.set_addresses(Vec::new());
    assert_eq!(refused(&mut sim, peer, &request), DropReason::NoAddress);
    sim.relay.set_addresses(vec![at("203.0.113.10:40000")]);
    sim.relay.set_accepting(false);
    assert_eq!(refused(&mut sim, peer, &request), DropReason::NotAccepting);

    assert_eq!(sim.relay.session_counts().connecting, 0);
    assert_eq!(sim.relay.counters().dropped(DropReason::DiscoMismatch), 2);
    sim.relay.set_accepting(true);
    assert!(sim.derp(&peer, &request).is_ok());
}

#[test]
fn request_of_a_future_version_is_dropped() {
    let (mut sim, alice, bob) = start();
    let clients = [alice.key, bob.key];
    let mut plaintext = Message::AllocateRequest {
        clients,
        generation: Generation(1),
    }
    .marshal();
    plaintext[1] = 1;
    let packet = alice.seal(node_key(), &plaintext);
    assert!(sim.derp(&alice.peer(), &packet).is_err());
}

#[test]
fn both_clients_bind_and_then_data_flows_unchanged() {
    let (mut sim, alice, bob) = start();
    let vni = sim.vni(&alice, &bob);

    let challenge = sim.challenge(vni, 5, &alice, &bob);
    assert_eq!(challenge.len(), REPLY_LEN);
    let BindCommon {
        vni: sealed,
        generation,
        remote,
        ..
    } = alice.read_challenge(&challenge);
    assert_eq!(
        (sealed, generation, remote),
        (vni.number(), Generation(5), bob.key)
    );
    let answer = alice.answer(vni, &challenge);
    assert_eq!(
        answer.len(),
        challenge.len(),
        "no message of the handshake is larger"
    );
    assert_eq!(sim.receive(alice.address, &answer), Outcome::Consumed);
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        drop(DropReason::NotBound)
    );
    assert!(sim.events().is_empty());

    sim.bind(vni, 9, &bob, &alice);
    let sides = Pair::new(alice.key, bob.key);
    let legs = [Side::A, Side::B].map(|side| {
        if sides.key(side) == alice.key {
            alice.address
        } else {
            bob.address
        }
    });
    assert_eq!(
        sim.events(),
        [Event::Opened {
            vni,
            legs,
            locals: [None; 2]
        }]
    );
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(alice.address)
    );
    let counts = sim.relay.session_counts();
    assert_eq!((counts.connecting, counts.open), (0, 1));
}

#[test]
fn disco_pings_between_the_clients_are_data() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    let header = Header {
        control: false,
        protocol: PROTOCOL_DISCO,
        vni,
    };
    let ping = [&header.encode()[..], &alice.seal(bob.key, b"\x01\x00ping")].concat();
    assert_eq!(
        sim.receive(alice.address, &ping),
        Outcome::Forward(bob.address)
    );
    let odd = Header {
        control: false,
        protocol: 0x6558,
        vni,
    }
    .encode();
    assert_eq!(
        sim.receive(alice.address, &odd),
        Outcome::Forward(bob.address)
    );
}

#[test]
fn client_with_two_addresses_binds_the_first_it_answers_from() {
    let (mut sim, alice, bob) = start();
    let vni = sim.vni(&alice, &bob);
    let v6 = at("[2001:db8::a]:41641");
    let bind = alice.bind(vni, 1, &bob);
    let Outcome::Reply(first) = sim.receive(v6, &bind) else {
        panic!("no challenge")
    };
    let Outcome::Reply(_) = sim.receive(alice.address, &bind) else {
        panic!("no challenge")
    };
    assert_eq!(
        sim.receive(v6, &alice.answer(vni, &first)),
        Outcome::Consumed
    );
    sim.bind(vni, 1, &bob, &alice);
    assert_eq!(
        sim.receive(bob.address, &data(vni, b"y")),
        Outcome::Forward(v6)
    );
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        drop(DropReason::WrongSource)
    );
    assert_eq!(
        sim.receive(v6, &data(vni, b"xyz")),
        Outcome::Forward(bob.address)
    );

    let traffic = sim.relay.counters().forwarded(Family::V6, Family::V4);
    assert_eq!((traffic.packets, traffic.bytes), (1, 11));
    assert_eq!(
        sim.relay
            .counters()
            .forwarded(Family::V4, Family::V6)
            .packets,
        1
    );
}

#[test]
fn lost_answer_is_repaired_by_the_next_generation() {
    let (mut sim, alice, bob) = start();
    let vni = sim.vni(&alice, &bob);
    let _lost = sim.challenge(vni, 1, &alice, &bob);
    sim.pass(seconds(10));
    sim.bind(vni, 2, &alice, &bob);
    sim.bind(vni, 1, &bob, &alice);
    assert_eq!(
        sim.receive(alice.address, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
}

#[test]
fn super_datagram_counts_every_segment() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    let verdict = sim
        .relay
        .handle_data(vni, alice.address, 16, 16 * 1_288, sim.now);
    assert_eq!(
        verdict,
        relay_proto::Verdict::Forward {
            to: bob.address,
            from: None
        }
    );
    let leg = sim
        .session(vni)
        .unwrap()
        .legs
        .into_iter()
        .find(|leg| leg.client == alice.key);
    assert_eq!(
        leg.map(|leg| (leg.packets, leg.bytes)),
        Some((16, 16 * 1_288))
    );
    assert_eq!(
        sim.relay
            .counters()
            .forwarded(Family::V4, Family::V4)
            .packets,
        16
    );
    let stranger = sim
        .relay
        .handle_data(vni, at("10.9.9.9:1"), 2, 20, Timestamp::START);
    assert_eq!(
        stranger,
        relay_proto::Verdict::Drop(DropReason::WrongSource)
    );
}

#[test]
fn dual_stack_socket_sees_the_same_client() {
    let (mut sim, alice, bob) = start();
    let vni = sim.open(&alice, &bob);
    let mapped = at("[::ffff:10.0.0.1]:41641");
    assert_eq!(
        sim.receive(mapped, &data(vni, b"x")),
        Outcome::Forward(bob.address)
    );
}

fn start() -> (Sim, Client, Client) {
    (Sim::new(), Client::new(1), Client::new(2))
}

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

fn drop(reason: DropReason) -> Outcome {
    Outcome::Drop(reason)
}

fn allocate_request(sender: &Client, clients: [relay_proto::DiscoPublic; 2]) -> Vec<u8> {
    let request = Message::AllocateRequest {
        clients,
        generation: Generation(1),
    };
    sender.seal(node_key(), &request.marshal())
}
