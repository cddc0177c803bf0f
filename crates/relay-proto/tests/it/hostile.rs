//! Whatever arrives: no panic, no answer to those who cannot prove who they are, never more bytes
//! out than in, and each refusal counted once under its reason.

use std::net::{IpAddr, SocketAddr};

use bolero::{TypeGenerator, ValueGenerator, check, one_of, one_value_of, produce};
use relay_proto::{
    Counters, DropReason, NodeKey, Pair, Peer, REPLY_LEN, SessionInfo, Timestamp, Vni,
    client::control,
    disco::{BindCommon, Endpoint, Generation, MAGIC, Message, NONCE_LEN},
    geneve::{HEADER_LEN, Header, uniform_data},
};

use crate::sim::{Client, Outcome, Sim, at, common, data, node_key, server_key};

/// The greatest UDP payload.
const HUGE: usize = 65_507;
const KEY_AT: usize = HEADER_LEN + MAGIC.len();
const NONCE_AT: usize = KEY_AT + 32;
const SEALED_AT: usize = NONCE_AT + NONCE_LEN;
const TAG_LEN: usize = 16;

#[test]
fn bytes_of_a_stranger_cause_silence() {
    let datagram = (source(), bytes(), produce::<Shape>());
    let datagrams = produce::<Vec<_>>().with().values(datagram).len(1..20_usize);
    let check = check!().with_iterations(256).with_generator(datagrams);
    check.for_each(|datagrams| {
        let mut scene = Scene::new();
        for (source, bytes, shape) in datagrams {
            let datagram = scene.shaped(*shape, bytes);
            let before = scene.snapshot();
            match scene.sim.receive(*source, &datagram) {
                Outcome::Drop(reason) => scene.assert_only_counted(&before, reason),
                Outcome::Forward(to) => {
                    let header = Header::decode(&datagram).unwrap();
                    assert_eq!(header.vni, scene.open);
                    assert!(!header.control);
                    assert!(scene.is_leg(*source) && scene.is_leg(to) && *source != to);
                }
                other => panic!("{other:?} for {datagram:02x?}"),
            }
            for segment in [0, 1, HEADER_LEN, 1_200] {
                let _ = uniform_data(&datagram, segment);
            }
        }
    });
}

#[test]
fn derp_packet_of_a_stranger_causes_silence() {
    let packet = (bytes(), produce::<(Shape, bool, bool)>());
    let packets = produce::<Vec<_>>().with().values(packet).len(1..20_usize);
    let check = check!().with_iterations(256).with_generator(packets);
    check.for_each(|packets| {
        let mut scene = Scene::new();
        for (bytes, (shape, known, granted)) in packets {
            let packet = scene.shaped(*shape, bytes);
            let packet = packet.get(HEADER_LEN..).unwrap_or_default();
            let peer = Peer {
                may_relay: *granted,
                disco: Some(scene.clients.alice.key),
                node_key: NodeKey([7; 32]),
                unsigned_peer_api_only: false,
            };
            let before = scene.snapshot();
            let now = scene.sim.now;
            let answer = scene
                .sim
                .relay
                .handle_derp(known.then_some(&peer), packet, now);
            scene.assert_only_counted(&before, answer.unwrap_err());
        }
    });
}

#[test]
fn one_flipped_bit_in_a_bind_or_answer_is_refused() {
    let flip = (produce::<bool>(), 0..REPLY_LEN, 0..8_u8);
    let check = check!().with_iterations(256).with_generator(flip);
    check.for_each(|&(answer, byte, bit)| {
        let mut scene = Scene::new();
        let mut datagram = scene.bind_or_answer(answer);
        datagram[byte] ^= 1 << bit;
        let expected = match (byte, bit) {
            (0, 6 | 7) => DropReason::Malformed,
            (1, 7) => DropReason::NotBound,
            (0 | 1 | 7, _) => return, // reserved, not read
            (4..=6, _) => DropReason::UnknownVni,
            (2 | 3, _) | (HEADER_LEN..KEY_AT, _) => DropReason::NotDisco,
            (KEY_AT..NONCE_AT, _) => DropReason::UnknownSender,
            _ => DropReason::BadSeal,
        };
        scene.refuses(scene.clients.carol.address, &datagram, expected);
    });
}

#[test]
fn cut_or_lengthened_bind_or_answer_is_refused() {
    let len = one_of((0..REPLY_LEN, REPLY_LEN + 1..HUGE + 1));
    let check = check!().with_iterations(256);
    let check = check.with_generator((produce::<bool>(), len));
    check.for_each(|&(answer, len)| {
        let mut scene = Scene::new();
        let mut datagram = scene.bind_or_answer(answer);
        datagram.resize(len, 0);
        let expected = match len {
            0..HEADER_LEN => DropReason::Malformed,
            _ if len < SEALED_AT + TAG_LEN => DropReason::NotDisco,
            _ => DropReason::BadSeal,
        };
        scene.refuses(scene.clients.carol.address, &datagram, expected);
    });
}

#[test]
fn nothing_binds_from_an_address_that_leads_nowhere_else() {
    let check = check!().with_iterations(256);
    let check = check.with_generator((unbindable(), produce::<(bool, bool)>()));
    check.for_each(|&(source, (mapped, answer))| {
        let mut scene = Scene::new();
        let datagram = scene.bind_or_answer(answer);
        let source = if mapped { as_mapped(source) } else { source };
        scene.refuses(source, &datagram, DropReason::SourceNotBindable);
    });
}

/// Before binding nothing is forwarded, so every byte out is a reply.
#[test]
fn no_more_bytes_leave_than_came() {
    let step = (produce::<Step>(), source());
    let steps = produce::<Vec<_>>().with().values(step).len(1..30_usize);
    let check = check!().with_iterations(256).with_generator(steps);
    check.for_each(|steps| {
        let mut scene = Scene::new();
        let (mut bytes_in, mut bytes_out) = (0, 0);
        let mut answer = Vec::new();
        for (step, source) in steps {
            let Clients { carol, dave, .. } = &scene.clients;
            let datagram = match step {
                Step::Bind(generation) => carol.bind(scene.fresh, *generation, dave),
                Step::PaddedBind(generation, padding) => scene.padded_bind(*generation, *padding),
                Step::Answer => answer.clone(),
                Step::Stranger(shape, bytes) => scene.shaped(*shape, bytes),
            };
            let own = matches!(step, Step::Bind(_) | Step::PaddedBind(..));
            bytes_in += datagram.len();
            match scene.sim.receive(*source, &datagram) {
                Outcome::Reply(reply) => {
                    assert!(own && reply.len() <= datagram.len());
                    bytes_out += reply.len();
                    answer = scene.clients.carol.answer(scene.fresh, &reply);
                }
                Outcome::Forward(_) => assert!(scene.is_leg(*source)),
                Outcome::Consumed => assert!(matches!(step, Step::Answer)),
                Outcome::Drop(_) => {}
            }
            assert!(bytes_out <= bytes_in);
        }
    });
}

#[test]
fn session_answers_only_its_own_clients_and_number() {
    let mut scene = Scene::new();
    let Clients {
        alice,
        carol,
        dave,
        eve,
        ..
    } = scene.clients.clone();
    let (open, fresh) = (scene.open, scene.fresh);
    let here = carol.address;
    let foreign = scene.sim.vni(&carol, &alice);
    let unused = Vni::new(if open == Vni::MAX {
        1
    } else {
        open.number() + 1
    })
    .unwrap();
    let forged = sealed_as(&carol, &eve, fresh, &common(fresh, 1, dave.key));

    for (datagram, reason) in [
        (carol.bind(unused, 1, &dave), DropReason::UnknownVni),
        (carol.bind(open, 1, &dave), DropReason::UnknownSender),
        (eve.bind(fresh, 1, &dave), DropReason::UnknownSender),
        (forged, DropReason::BadSeal),
        (
            renumbered(&carol.bind(fresh, 1, &dave), foreign),
            DropReason::WrongSession,
        ),
        (
            renumbered(&carol.bind(foreign, 1, &alice), fresh),
            DropReason::WrongSession,
        ),
        (carol.bind(fresh, 1, &alice), DropReason::WrongSession),
        (carol.bind(fresh, 1, &carol), DropReason::WrongSession),
        (carol.bind(fresh, 0, &dave), DropReason::StaleGeneration),
    ] {
        scene.refuses(here, &datagram, reason);
    }
}

#[test]
fn messages_that_are_not_for_the_port_are_refused() {
    let mut scene = Scene::new();
    let Clients { carol, dave, .. } = scene.clients.clone();
    let (here, fresh) = (carol.address, scene.fresh);
    let endpoint = Endpoint {
        server: server_key(),
        clients: Pair::new(carol.key, dave.key),
        lamport: 1,
        vni: fresh.number(),
        bind_lifetime_ns: 1,
        steady_lifetime_ns: 1,
        addresses: vec![here],
    };
    for message in [
        Message::Challenge(common(fresh, 1, dave.key)),
        Message::CallMeMaybeVia(endpoint.clone()),
        Message::AllocateRequest {
            clients: [carol.key, dave.key],
            generation: Generation(1),
        },
        Message::AllocateResponse {
            generation: Generation(1),
            endpoint,
        },
    ] {
        let datagram = carol.control(fresh, &message);
        scene.refuses(here, &datagram, DropReason::UnexpectedMessage);
    }
    let ping = carol.seal(server_key(), b"\x01\x00ping");
    scene.refuses(here, &control(fresh, &ping), DropReason::BadSeal);
    let bind = Message::Bind(common(fresh, 1, dave.key)).marshal();
    let for_the_node = carol.seal(node_key(), &bind);
    scene.refuses(here, &control(fresh, &for_the_node), DropReason::BadSeal);
}

#[test]
fn answer_counts_once_from_where_it_was_asked_for() {
    let mut scene = Scene::new();
    let Clients {
        carol, dave, eve, ..
    } = scene.clients.clone();
    let (here, fresh) = (carol.address, scene.fresh);
    let unasked = carol.control(fresh, &Message::Answer(common(fresh, 1, dave.key)));
    scene.refuses(here, &unasked, DropReason::StaleGeneration);

    let challenge = scene.sim.challenge(fresh, 1, &carol, &dave);
    let answer = carol.answer(fresh, &challenge);
    let guess = carol.control(fresh, &Message::Answer(common(fresh, 1, dave.key)));
    scene.refuses(here, &guess, DropReason::BadChallenge);
    scene.refuses(eve.address, &answer, DropReason::BadChallenge);
    let other_port = SocketAddr::new(here.ip(), here.port() + 1);
    scene.refuses(other_port, &answer, DropReason::BadChallenge);
    scene.refuses(here, &challenge, DropReason::UnknownSender);
    let of_dave = BindCommon {
        remote: carol.key,
        ..carol.read_challenge(&challenge)
    };
    let stolen = dave.control(fresh, &Message::Answer(of_dave));
    scene.refuses(here, &stolen, DropReason::StaleGeneration);

    assert_eq!(scene.sim.receive(here, &answer), Outcome::Consumed);
    scene.refuses(here, &answer, DropReason::StaleGeneration);
    scene.refuses(eve.address, &answer, DropReason::StaleGeneration);
}

#[test]
fn data_of_any_size_passes_from_a_leg_and_from_nowhere_else() {
    let mut scene = Scene::new();
    let Clients {
        alice,
        bob,
        carol,
        eve,
        ..
    } = scene.clients.clone();
    let beside = SocketAddr::new(alice.address.ip(), alice.address.port() + 1);
    for len in [0, 1, 1_280, 9_000, HUGE - HEADER_LEN] {
        let datagram = data(scene.open, &vec![0xee; len]);
        let passed = scene.sim.receive(alice.address, &datagram);
        assert_eq!(passed, Outcome::Forward(bob.address));
        for source in [eve.address, carol.address, beside, at("203.0.113.10:40000")] {
            scene.refuses(source, &datagram, DropReason::WrongSource);
        }
        let early = data(scene.fresh, &vec![0xee; len]);
        scene.refuses(carol.address, &early, DropReason::NotBound);
    }
}

#[test]
fn stun_that_nobody_asked_for_is_counted_as_such() {
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    let mut scene = Scene::new();
    let eve = scene.clients.eve.address;
    for kind in [[0x00, 0x01], [0x01, 0x01]] {
        let message = [&kind[..], &[0, 0], &COOKIE, &[0xab; 12]].concat();
        scene.refuses(eve, &message, DropReason::UnsolicitedStun);
        let attributes = [&message[..], &[0; 12]].concat();
        scene.refuses(eve, &attributes, DropReason::UnsolicitedStun);
        scene.refuses(eve, &message[..19], DropReason::UnknownVni);
        let mut other = message.clone();
        other[7] ^= 1;
        scene.refuses(eve, &other, DropReason::UnknownVni);
    }
}

#[test]
fn own_address_in_mapped_form_may_not_bind_either() {
    let mut scene = Scene::new();
    scene
        .sim
        .relay
        .set_addresses(vec![at("[::ffff:203.0.113.10]:40000")]);
    let bind = scene.bind_or_answer(false);
    let own = at("203.0.113.10:40000");
    scene.refuses(own, &bind, DropReason::SourceNotBindable);
    scene.refuses(as_mapped(own), &bind, DropReason::SourceNotBindable);
}

/// The clients of a [`Scene`]; eve is not known to the relay.
#[derive(Clone)]
struct Clients {
    alice: Client,
    bob: Client,
    carol: Client,
    dave: Client,
    eve: Client,
}

/// A relay with an open session of alice and bob, and one of carol and dave that is not bound.
struct Scene {
    sim: Sim,
    clients: Clients,
    open: Vni,
    fresh: Vni,
}

/// Headers that are put before random bytes, to get past the first checks.
#[derive(Debug, Clone, Copy, TypeGenerator)]
enum Shape {
    Plain,
    Data,
    Control,
    Frame,
    FrameOfEve,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Step {
    Bind(#[generator(0..4_u32)] u32),
    PaddedBind(
        #[generator(0..4_u32)] u32,
        #[generator(0..2_000_usize)] usize,
    ),
    Answer,
    Stranger(Shape, #[generator(bytes())] Vec<u8>),
}

impl Scene {
    fn new() -> Self {
        let [alice, bob, carol, dave, eve] = [1, 2, 3, 4, 5].map(Client::new);
        let mut sim = Sim::new();
        let open = sim.open(&alice, &bob);
        let fresh = sim.vni(&carol, &dave);
        sim.events();
        Self {
            sim,
            clients: Clients {
                alice,
                bob,
                carol,
                dave,
                eve,
            },
            open,
            fresh,
        }
    }

    /// A datagram that carol would bind with; for an answer, its challenge is on the way.
    fn bind_or_answer(&mut self, answer: bool) -> Vec<u8> {
        let Clients { carol, dave, .. } = self.clients.clone();
        if !answer {
            return carol.bind(self.fresh, 1, &dave);
        }
        let challenge = self.sim.challenge(self.fresh, 1, &carol, &dave);
        carol.answer(self.fresh, &challenge)
    }

    /// A bind whose box has `padding` bytes behind the message, which readers ignore.
    fn padded_bind(&self, generation: u32, padding: usize) -> Vec<u8> {
        let Clients { carol, dave, .. } = &self.clients;
        let bind = Message::Bind(common(self.fresh, generation, dave.key));
        let plaintext = [bind.marshal(), vec![0; padding]].concat();
        let frame = carol.seal(server_key(), &plaintext);
        control(self.fresh, &frame)
    }

    fn shaped(&self, shape: Shape, bytes: &[u8]) -> Vec<u8> {
        let frame = |client: &Client| [&MAGIC[..], &client.key.0, bytes].concat();
        match shape {
            Shape::Plain => bytes.to_vec(),
            Shape::Data => data(self.open, bytes),
            Shape::Control => control(self.open, bytes),
            Shape::Frame => control(self.open, &frame(&self.clients.alice)),
            Shape::FrameOfEve => control(self.open, &frame(&self.clients.eve)),
        }
    }

    fn is_leg(&self, address: SocketAddr) -> bool {
        address == self.clients.alice.address || address == self.clients.bob.address
    }

    /// Asserts that the datagram is dropped for `reason`, which is all that it changes.
    fn refuses(&mut self, source: SocketAddr, datagram: &[u8], reason: DropReason) {
        let before = self.snapshot();
        let outcome = self.sim.receive(source, datagram);
        assert_eq!(outcome, Outcome::Drop(reason), "from {source}");
        self.assert_only_counted(&before, reason);
    }

    fn snapshot(&self) -> Snapshot {
        let relay = &self.sim.relay;
        Snapshot {
            counters: relay.counters().clone(),
            sessions: relay.sessions().collect(),
            due: relay.poll_timeout(),
            next_lamport: relay.next_lamport(),
        }
    }

    fn assert_only_counted(&mut self, before: &Snapshot, reason: DropReason) {
        let mut expected = before.clone();
        expected.counters.drops[reason.index()] += 1;
        assert_eq!(self.snapshot(), expected);
        assert_eq!(self.sim.events(), []);
    }
}

/// All that shows of a relay's state.
#[derive(Debug, Clone, PartialEq)]
struct Snapshot {
    counters: Counters,
    sessions: Vec<SessionInfo>,
    due: Option<Timestamp>,
    next_lamport: u64,
}

fn bytes() -> impl ValueGenerator<Output = Vec<u8>> {
    let any = || produce::<Vec<u8>>().with().len(0..300_usize);
    let long = (produce::<u8>(), 0..HUGE - SEALED_AT + 1);
    let long = long.map_gen(|(byte, len)| vec![byte; len]);
    one_of((any(), any(), any(), any(), long))
}

/// An address of a client, of a stranger, or any.
fn source() -> impl ValueGenerator<Output = SocketAddr> {
    let known = (1..6_u8).map_gen(Client::home);
    one_of((known, produce::<SocketAddr>()))
}

/// Addresses that may not bind (docs/wire.md, section 9).
fn unbindable() -> impl ValueGenerator<Output = SocketAddr> {
    let v4 = |net: [u8; 4], mask: u32| {
        produce::<u32>().map_gen(move |host| {
            IpAddr::from((u32::from_be_bytes(net) | (host & mask)).to_be_bytes())
        })
    };
    let v6 = |net: u16, mask: u16| {
        produce::<[u16; 8]>().map_gen(move |mut words| {
            words[0] = net | (words[0] & mask);
            IpAddr::from(words)
        })
    };
    let ip = one_of((
        v4([0, 0, 0, 0], 0x00ff_ffff),
        v4([127, 0, 0, 0], 0x00ff_ffff),
        v4([169, 254, 0, 0], 0xffff),
        v4([224, 0, 0, 0], 0x0fff_ffff),
        v4([255, 255, 255, 255], 0),
        v6(0xfe80, 0x3f),
        v6(0xff00, 0xff),
        one_value_of([at("[::]:1").ip(), at("[::1]:1").ip()]),
    ));
    let nowhere = (ip, 1..=u16::MAX).map_gen(SocketAddr::from);
    let no_port = produce::<IpAddr>().map_gen(|ip| SocketAddr::new(ip, 0));
    let own = one_value_of([at("203.0.113.10:40000"), at("[2001:db8::10]:40000")]);
    (0..10_u8, nowhere, one_of((no_port, own)))
        .map_gen(|(which, nowhere, other)| if which < 8 { nowhere } else { other })
}

/// The form in which a dual-stack socket shows an IPv4 address.
fn as_mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The datagram with another VNI in its header.
fn renumbered(datagram: &[u8], vni: Vni) -> Vec<u8> {
    control(vni, &datagram[HEADER_LEN..])
}

/// A bind that claims to be `claimed`'s, sealed by `sealer`.
fn sealed_as(claimed: &Client, sealer: &Client, vni: Vni, bind: &BindCommon) -> Vec<u8> {
    let mut datagram = sealer.control(vni, &Message::Bind(*bind));
    datagram[KEY_AT..NONCE_AT].copy_from_slice(&claimed.key.0);
    datagram
}
