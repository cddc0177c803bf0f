//! Parsers given anything at all, and what is near to what they expect.

use std::time::Duration;

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use bolero::{check, constant, one_of, produce};
use fuzz_edits::{edited, edits};
use relay_proto::{
    Config, Relay, State,
    disco::{Generation, Message},
    geneve,
};

use crate::sim::{Client, Outcome, STATE_KEY, Sim, common, node_key, seconds, server_key};

/// The state of a relay with open and unbound sessions, without its seal.
fn state() -> Vec<u8> {
    let mut sim = Sim::new();
    let clients: Vec<_> = (1..5).map(Client::new).collect();
    sim.open(&clients[0], &clients[1]);
    sim.open(&clients[2], &clients[1]);
    let begun = sim.vni(&clients[0], &clients[3]);
    sim.challenge(begun, 9, &clients[3], &clients[0]);
    let bytes = sim.relay.export(sim.now).encode(&STATE_KEY);
    bytes[..bytes.len() - 32].to_vec()
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut mac = Blake2sMac256::new_from_slice(&STATE_KEY).expect("32 bytes");
    mac.update(&bytes);
    bytes.extend_from_slice(&mac.finalize_fixed());
    bytes
}

/// Whoever could seal such a state could do more than this; but a file of another version, or a
/// fault of ours, must not become a relay that panics or never lets go.
#[test]
fn state_under_a_right_seal_is_refused_or_works() {
    let away = one_of((0..400_u64, constant(u64::MAX)));
    let check = check!().with_iterations(4_000);
    let whole = state();
    check
        .with_generator((edits(), away))
        .for_each(|(edits, away)| {
            let bytes = sealed(edited(&whole, edits));
            let Ok(mut state) = State::decode(&bytes, &STATE_KEY) else {
                return;
            };
            let again = State::decode(&state.encode(&STATE_KEY), &STATE_KEY);
            assert_eq!(again.map(|again| again.len()).ok(), Some(state.len()));
            let mut now = relay_proto::Timestamp::from_start(seconds(1_000_000));
            let (config, keys) = (Config::default(), state.keys.clone());
            let mut relay = Relay::new(config, keys, [8; 32], state.next_lamport, now);
            state.age(Duration::from_secs(*away));
            let count = relay.import(&state, 0, |_| true, now);
            assert!(count <= state.len());
            assert_eq!(relay.sessions().count(), count);
            now = now + seconds(301);
            relay.handle_timeout(now);
            assert_eq!(relay.session_counts(), Default::default());
            assert_eq!(relay.poll_timeout(), None);
        });
}

#[test]
fn message_that_is_read_is_written_the_same() {
    let version = one_of((constant(0), produce::<u8>()));
    let body = produce::<Vec<u8>>().with().len(0..260_usize);
    let check = check!().with_iterations(50_000);
    let check = check.with_generator((0..12_u8, version, body));
    check.for_each(|(kind, version, body)| {
        let plaintext = [&[*kind, *version][..], body].concat();
        if let Some(message) = Message::parse(&plaintext) {
            assert_eq!(message.kind(), *kind);
            let written = message.marshal();
            assert!(written.len() <= plaintext.len());
            assert_eq!(Message::parse(&written), Some(message));
        }
    });
}

#[test]
fn header_that_is_read_is_written_the_same() {
    let datagram = produce::<Vec<u8>>().with().len(0..80_usize);
    let check = check!().with_iterations(50_000);
    let check = check.with_generator((datagram, 0..80_usize));
    check.for_each(|(datagram, segment)| {
        let header = geneve::Header::decode(datagram);
        if let Some(header) = header {
            assert_eq!(geneve::Header::decode(&header.encode()), Some(header));
        }
        if let Some(vni) = geneve::uniform_data(datagram, *segment) {
            let first = header.map(|header| (header.vni, header.control));
            assert_eq!(first, Some((vni, false)));
        }
    });
}

/// Whoever is in the network map may say anything under a right seal.
#[test]
fn a_request_under_a_right_seal_is_answered_only_when_it_is_one() {
    let clients = [1, 2, 3].map(Client::new);
    let check = check!().with_iterations(2_000);
    let check = check.with_generator(((0..2_usize, 0..3_usize), edits()));
    check.for_each(|((a, b), edits)| {
        let mut sim = Sim::new();
        let alice = &clients[0];
        let request = Message::AllocateRequest {
            clients: [clients[*a].key, clients[*b].key],
            generation: Generation(77),
        };
        let plaintext = edited(&request.marshal(), edits);
        let answer = sim.derp(&alice.peer(), &alice.seal(node_key(), &plaintext));
        let Some(Message::AllocateRequest { clients, .. }) = Message::parse(&plaintext) else {
            assert!(answer.is_err());
            return;
        };
        let right = clients.contains(&alice.key) && clients[0] != clients[1];
        assert_eq!(answer.is_ok(), right);
        assert_eq!(sim.sessions().len(), usize::from(right));
    });
}

#[test]
fn a_bind_under_a_right_seal_is_challenged_only_when_it_is_one() {
    let check = check!().with_iterations(2_000).with_generator(edits());
    check.for_each(|edits| {
        let mut sim = Sim::new();
        let [alice, bob] = [1, 2].map(Client::new);
        let vni = sim.vni(&alice, &bob);
        let bind = common(vni, 7, bob.key);
        let plaintext = edited(&Message::Bind(bind).marshal(), edits);
        let frame = alice.seal(server_key(), &plaintext);
        let header = geneve::Header {
            control: true,
            protocol: geneve::PROTOCOL_DISCO,
            vni,
        };
        let datagram = [&header.encode()[..], &frame].concat();
        let right = match Message::parse(&plaintext) {
            Some(Message::Bind(said)) => {
                said.vni == bind.vni && said.remote == bind.remote && said.generation.0 != 0
            }
            _ => false,
        };
        match sim.receive(alice.address, &datagram) {
            Outcome::Reply(reply) => assert!(right && reply.len() <= datagram.len()),
            outcome => assert!(!right && matches!(outcome, Outcome::Drop(_)), "{outcome:?}"),
        }
    });
}
