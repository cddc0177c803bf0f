//! The program and the protocol core decide alike about generated packets, and what the program
//! writes has right checksums.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    sync::atomic::Ordering,
    thread,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use relay_proto::{Config, Event, REPLY_LEN, Relay, Timestamp, Verdict, Vni};

use super::{
    client::{Client, at, data, keys},
    loaded,
    wire::PORT,
};
use crate::relay::kernel::{
    abi,
    egress::Egress,
    entry::{Leg, SessionEntry, Usage},
    frame,
    program::{Maps, Program},
    self_test::REDIRECTED,
    sys,
};

/// Packets of each seed; each has a thread of its own.
const PACKETS: usize = 1_000_000;
const SEEDS: [u64; 2] = [4, 5];
/// Verdicts of the program for a packet that goes on to the next program, and for one that ends
/// here.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// The core with some open sessions, and the program with the same.
struct Twins {
    relay: Relay,
    program: aya::programs::ProgramFd,
    _loaded: (Program, Maps),
    sessions: Vec<(Vni, [SocketAddr; 2], [IpAddr; 2])>,
}

impl Twins {
    fn open() -> Option<Self> {
        let mut relay = Relay::new(Config::default(), keys(), [5; 32], 1, Timestamp::START);
        relay.set_addresses(vec![at("10.9.0.1:40000")]);
        let (mut program, mut maps) = loaded(64)?;
        let locals: [IpAddr; 4] = ["10.9.0.1", "10.9.0.2", "2001:db8:9::1", "2001:db8:9::2"]
            .map(|ip| ip.parse().unwrap());
        for (key, ip) in (1..).zip(locals) {
            maps.locals.insert(abi::address_key(ip), key, 0).unwrap();
            maps.addresses.set(key, abi::address_key(ip), 0).unwrap();
        }
        // What is known is never too much.
        let known = sys::share(maps.vni_filter.fd().as_fd(), 1).unwrap();
        known[0].store(u64::MAX, Ordering::Relaxed);
        let legs = [
            ["10.1.0.2:1001", "10.2.0.2:1002"],
            ["10.1.0.2:1001", "10.2.0.3:40000"],
            ["[2001:db8:1::2]:1001", "[2001:db8:2::2]:1002"],
            ["10.1.0.2:1001", "[2001:db8:2::2]:1002"],
        ];
        let mut sessions = Vec::new();
        for (number, legs) in (1_u8..).step_by(2).zip(legs) {
            let legs = legs.map(at);
            let bound = legs.map(|leg| {
                let of_family = |ip: &&IpAddr| ip.is_ipv4() == leg.is_ipv4();
                let mut locals = locals.iter().filter(of_family);
                *locals.nth(usize::from(leg.port() & 1)).unwrap()
            });
            let vni = bind(&mut relay, number, legs, bound);
            let keys = bound.map(|ip| 1 + locals.iter().position(|l| *l == ip).unwrap() as u16);
            enter(&mut maps, vni, legs, keys);
            sessions.push((vni, legs, bound));
        }
        Some(Self {
            relay,
            program: program.fd().unwrap(),
            _loaded: (program, maps),
            sessions,
        })
    }

    /// Compares what both do with one packet; returns whether the program sent it on.
    fn compare(&mut self, sent: &Sent) -> bool {
        let run = match sys::test_run(self.program.as_fd(), &sent.frame, sent.gso_size, 1) {
            Ok(run) => run,
            // Linux runs no program on a frame without a whole header.
            Err(_) if sent.change == "cut" => return false,
            Err(error) => panic!("{error}: {sent:?}"),
        };
        if run.verdict != REDIRECTED {
            assert_ne!(
                run.verdict, DROP,
                "nothing is dropped below the limit: {sent:?}"
            );
            assert_eq!((run.verdict, &run.packet), (NEXT, &sent.frame), "{sent:?}");
            assert!(!sent.must_forward, "left to the sockets: {sent:?}");
            return false;
        }
        assert!(sent.for_relay, "taken from the stack: {sent:?}");
        let (from, to, ttl) = frame::ends(&sent.frame);
        let payload = frame::payload(&sent.frame);
        let step = match sent.gso_size {
            0 => payload.len(),
            size => size as usize,
        };
        let expected = payload.chunks(step).map(|datagram| {
            let mut reply = [0; REPLY_LEN];
            let now = Timestamp::START;
            self.relay
                .handle_datagram(from, Some(to.ip()), datagram, now, &mut reply)
        });
        let (new_from, new_to, new_ttl) = frame::ends(&run.packet);
        for verdict in expected {
            let Verdict::Forward { to, from } = verdict else {
                panic!("the core says {verdict:?} of {sent:?}");
            };
            assert_eq!((to, from), (new_to, Some(new_from.ip())), "{sent:?}");
        }
        assert_eq!((new_from.port(), new_ttl), (PORT, ttl - 1));
        assert_eq!(frame::payload(&run.packet), payload);
        assert_eq!(
            frame::is_sealed(&run.packet),
            frame::is_sealed(&sent.frame),
            "checksums stay as right as they were: {sent:?}"
        );
        true
    }
}

/// Runs the handshakes of a session in the core.
fn bind(relay: &mut Relay, number: u8, legs: [SocketAddr; 2], locals: [IpAddr; 2]) -> Vni {
    let clients = [Client::new(number), Client::new(number + 1)];
    let now = Timestamp::START;
    let request = clients[0].request(&clients[1]);
    let response = relay
        .handle_derp(Some(&clients[0].peer()), &request, now)
        .unwrap();
    let vni = clients[0].vni(&response);
    let pairs = clients.iter().zip(clients.iter().rev());
    for ((client, other), (leg, local)) in pairs.zip(legs.into_iter().zip(locals)) {
        let mut reply = [0; REPLY_LEN];
        let begun = client.bind(vni, 1, other);
        let begun = relay.handle_datagram(leg, Some(local), &begun, now, &mut reply);
        assert!(matches!(begun, Verdict::Reply { .. }), "{begun:?}");
        let answer = client.answer(vni, 1, other, &reply);
        let mut none = [0; REPLY_LEN];
        let bound = relay.handle_datagram(leg, Some(local), &answer, now, &mut none);
        assert_eq!(bound, Verdict::Consumed);
    }
    while let Some(event) = relay.poll_event() {
        assert!(matches!(event, Event::Opened { .. }));
    }
    vni
}

/// Gives the program an entry for a session whose legs are bound through local addresses with these keys.
fn enter(maps: &mut Maps, vni: Vni, legs: [SocketAddr; 2], keys: [u16; 2]) {
    let mtu = match legs {
        [SocketAddr::V4(_), SocketAddr::V4(_)] | [SocketAddr::V6(_), SocketAddr::V6(_)] => 1_500,
        _ => 0,
    };
    let mut leg = |at: usize| {
        let egress = Egress {
            ifindex: 1,
            local: keys[at],
            gateway: None,
        };
        Leg {
            address: legs[at],
            mtu,
            egress: maps.egresses.key(egress).unwrap(),
        }
    };
    let session = SessionEntry {
        legs: [leg(0), leg(1)],
        usage: Usage::default(),
    };
    maps.entries.insert(vni.number(), &session).unwrap();
}

/// A packet, with what must come of it by the way it was made.
#[derive(Debug)]
struct Sent {
    frame: Vec<u8>,
    gso_size: u32,
    /// Addressed to the relay's port at one of its addresses, whole, as UDP.
    for_relay: bool,
    /// Good data of an open session between addresses of one family.
    must_forward: bool,
    /// Change that was made to a good packet.
    change: &'static str,
}

/// A packet while it is made.
struct Draft {
    vni: Vni,
    other_leg: SocketAddr,
    from: SocketAddr,
    to: SocketAddr,
    ttl: u8,
    body: Vec<u8>,
    payload: Vec<u8>,
    sent: Sent,
}

impl Draft {
    /// Good data of one of the sessions.
    fn good(rng: &mut StdRng, twins: &Twins) -> Self {
        let (vni, legs, bound) = twins.sessions[rng.random_range(0..twins.sessions.len())];
        let side = rng.random_range(0..2);
        // Most are short: length decides little, and costs time.
        let most = if rng.random_ratio(1, 8) { 1_400 } else { 64 };
        let mut body = vec![0; rng.random_range(0..most)];
        rng.fill(&mut body[..]);
        Self {
            vni,
            other_leg: legs[1 - side],
            from: legs[side],
            to: SocketAddr::new(bound[side], PORT),
            ttl: 64,
            payload: data(vni, &body),
            body,
            sent: Sent {
                frame: Vec::new(),
                gso_size: 0,
                for_relay: true,
                must_forward: legs[0].is_ipv4() == legs[1].is_ipv4(),
                change: "nothing",
            },
        }
    }

    /// Names the change; data that is changed so need not be forwarded any more.
    const fn changed(&mut self, change: &'static str, for_relay: bool) {
        self.sent.change = change;
        self.sent.for_relay = for_relay;
        self.sent.must_forward = false;
    }

    /// Changes a field that the frame is made of.
    fn change_field(&mut self, rng: &mut StdRng, change: u32) {
        match change {
            0 => {
                self.from.set_port(self.from.port() ^ 4);
                self.changed("source port", true);
            }
            1 => {
                // Within a family, the other client may send to the same address.
                let must_forward = self.sent.must_forward;
                if self.other_leg.is_ipv4() == self.to.is_ipv4() {
                    self.from = self.other_leg;
                } else {
                    self.from.set_port(9);
                }
                self.changed("the other leg", true);
                self.sent.must_forward = must_forward;
            }
            2 => {
                self.payload[1] |= 0x80;
                self.changed("control", true);
            }
            3 => {
                self.payload[0] = 0x40 << rng.random_range(0..2);
                self.changed("version", true);
            }
            4 => {
                self.payload[4..7].fill(0);
                self.changed("VNI 0", true);
            }
            5 => {
                self.payload[4] ^= 0x55;
                self.changed("unknown VNI", true);
            }
            6 => {
                self.payload.truncate(rng.random_range(0..8));
                self.changed("too short", true);
            }
            7 => {
                self.to.set_port(PORT + 1);
                self.changed("another port", false);
            }
            8 => {
                self.to.set_ip(match self.to {
                    SocketAddr::V4(_) => "10.9.0.77".parse().unwrap(),
                    SocketAddr::V6(_) => "2001:db8:9::77".parse().unwrap(),
                });
                self.changed("another host", false);
            }
            _ => {
                self.ttl = rng.random_range(0..2);
                self.changed("time to live", true);
            }
        }
    }

    /// Makes it a super-packet, in half of all cases with a segment that is no good data.
    fn join_segments(&mut self, rng: &mut StdRng) {
        let segments = rng.random_range(2..15);
        let segment = data(self.vni, &self.body[..self.body.len().min(200)]);
        self.payload = segment.repeat(segments);
        let tail = &data(self.vni, b"tail")[..8.min(segment.len())];
        self.payload.extend_from_slice(tail);
        self.sent.gso_size = segment.len() as u32;
        if rng.random_bool(0.5) {
            let spoiled = rng.random_range(1..=segments) * segment.len();
            let at = rng.random_range(0..3);
            self.payload[spoiled + [0, 1, 5][at]] ^= [0x40, 0x80, 0x11][at];
            self.changed("a spoiled segment", true);
        } else {
            self.sent.change = "a super-packet";
        }
    }

    /// Changes the whole frame.
    fn change_frame(&mut self, rng: &mut StdRng, change: u32) {
        let is_v4 = self.to.is_ipv4();
        let frame = &mut self.sent.frame;
        let udp = frame::udp_at(frame);
        match change {
            10 => {
                match is_v4 {
                    true => frame[20] |= 0x20,
                    false => frame[20] = 44,
                }
                self.changed("fragment", false);
            }
            11 => {
                match is_v4 {
                    true => frame[21] = 5,
                    false => frame[20] = 60,
                }
                self.changed("later fragment or extension header", false);
            }
            12 => {
                frame[14] = frame[14].wrapping_add(1);
                self.changed("IP options or class", true);
            }
            13 => {
                frame[udp + 6..udp + 8].fill(0);
                self.changed("no checksum", true);
            }
            14 => {
                let len = rng.random_range(14..frame.len());
                frame.truncate(len);
                self.changed("cut", true);
            }
            15 => {
                frame.extend_from_slice(&[0; 3]);
                self.changed("padding", true);
            }
            _ => {
                frame[udp + 5] ^= 1;
                self.changed("UDP length", true);
            }
        }
    }
}

/// Good data of an open session, most of it with one change.
fn generate(rng: &mut StdRng, twins: &Twins) -> Sent {
    let mut draft = Draft::good(rng, twins);
    let change = rng.random_range(0..20);
    match change {
        0..10 => draft.change_field(rng, change),
        17 | 18 => draft.join_segments(rng),
        _ => {}
    }
    draft.sent.frame = frame::udp(draft.from, draft.to, draft.ttl, &draft.payload);
    if (10..17).contains(&change) {
        draft.change_frame(rng, change);
    }
    draft.sent
}

#[test]
fn program_forwards_only_what_the_core_forwards_and_all_that_is_good() {
    let twins: Option<Vec<_>> = SEEDS.iter().map(|_| Twins::open()).collect();
    let Some(twins) = twins else { return };
    let compare = |seed, mut twins: Twins| {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut forwarded = 0;
        for _ in 0..PACKETS {
            let sent = generate(&mut rng, &twins);
            forwarded += usize::from(twins.compare(&sent));
        }
        assert!(
            (PACKETS / 10..PACKETS / 2).contains(&forwarded),
            "{forwarded} were forwarded"
        );
    };
    thread::scope(|scope| {
        for (seed, twins) in SEEDS.into_iter().zip(twins) {
            scope.spawn(move || compare(seed, twins));
        }
    });
}

#[test]
fn handshakes_that_no_thread_would_answer_end_in_the_program() {
    let Some(twins) = Twins::open() else { return };
    let (vni, legs, bound) = twins.sessions[0];
    let mut datagram = data(vni, &[0; 100]);
    let relay = SocketAddr::new(bound[0], PORT);
    let run = |datagram: &[u8], times| {
        let frame = frame::udp(legs[0], relay, 64, datagram);
        sys::test_run(twins.program.as_fd(), &frame, 0, times).unwrap()
    };
    datagram[1] |= 0x80;
    assert_eq!(run(&datagram, 1).verdict, NEXT);
    // Unless another window begins just before the end.
    assert!((0..5).any(|_| run(&datagram, 60_000).verdict == DROP));
    datagram[1] &= !0x80;
    assert_eq!(run(&datagram, 1).verdict, REDIRECTED);
}

#[test]
fn sockets_serve_a_client_that_knows_an_address_which_is_gone() {
    let Some(mut twins) = Twins::open() else {
        return;
    };
    let (vni, legs, bound) = twins.sessions[0];
    let program = twins.program.try_clone().unwrap();
    let maps = &mut twins._loaded.1;
    let frame = frame::udp(
        legs[0],
        SocketAddr::new(bound[0], PORT),
        64,
        &data(vni, &[7; 100]),
    );
    let run = || sys::test_run(program.as_fd(), &frame, 0, 1).unwrap();
    assert_eq!(run().verdict, REDIRECTED);
    let address = abi::address_key(bound[1]);
    let key = maps.locals.get(&address, 0).unwrap();
    maps.locals.remove(&address).unwrap();
    maps.addresses.set(key, [0; 16], 0).unwrap();
    let after = run();
    assert_eq!((after.verdict, &after.packet), (NEXT, &frame));
}
