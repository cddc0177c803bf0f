//! What a core costs with many sessions: memory of each, datagrams a second with a thousand of them
//! and with all, and the longest expiry.
//!
//! `cargo run --release -p relay-proto --example scale -- 1000000`
#![allow(
    clippy::disallowed_methods,
    reason = "it drives a core and measures it"
)]

use std::{
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    Config, DiscoPublic, DiscoSecret, Keys, NodeKey, Peer, REPLY_LEN, Relay, Timestamp, Verdict,
    Vni,
    disco::{BindCommon, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
};

/// Datagrams of one measurement.
const DATAGRAMS: usize = 4_000_000;

struct Client {
    key: DiscoPublic,
    node: SalsaBox,
    server: SalsaBox,
    address: SocketAddr,
}

/// A bound session: its number and its first client's address.
type Session = (Vni, SocketAddr);

fn main() {
    let wanted = std::env::args().nth(1);
    let wanted: usize = wanted.map_or(100_000, |n| n.parse().expect("a number of sessions"));
    let secrets = [[1; 32], [2; 32]];
    let [node, server] = secrets.map(DiscoSecret::from_bytes);
    let publics = [node.public(), server.public()];
    let keys = Keys { node, server };
    let limits = Config {
        max_sessions: Config::MOST_SESSIONS,
        max_sessions_per_node: Config::MOST_SESSIONS,
        ..Config::default()
    };
    let mut now = Timestamp::START;
    let mut relay = Relay::new(limits, keys, [3; 32], 1, now);
    relay.set_addresses(vec![SocketAddr::from(([203, 0, 113, 10], 40000))]);

    let clients = clients(wanted, publics);
    let mut sessions = Vec::with_capacity(wanted);
    let pairs = (0..clients.len()).flat_map(|a| (0..a).map(move |b| [a, b]));
    let pairs: Vec<_> = pairs.take(wanted).collect();
    let before = resident();
    let mut spent = Duration::ZERO;
    for (n, pair) in pairs.iter().enumerate() {
        let pair = pair.map(|client| &clients[client]);
        sessions.push(open(&mut relay, n, pair, &mut spent, now));
        while relay.poll_event().is_some() {}
    }
    while let Some(due) = relay.poll_forget() {
        now = due;
        relay.forget(now);
    }
    let each = (resident() - before) as f64 / wanted as f64;
    let bound = wanted as f64 / spent.as_secs_f64();
    println!("{wanted} sessions: {each:.0} bytes each, {bound:.0} bound a second");
    for count in [1000, wanted] {
        let rate = forward(&mut relay, &sessions[..count.min(wanted)], now);
        println!(
            "{:.2} million datagrams a second over {count} sessions",
            rate / 1e6
        );
    }
    now = now + Duration::from_secs(3600);
    let start = Instant::now();
    relay.handle_timeout(now);
    let took = start.elapsed();
    let left = relay.session_counts().open;
    println!(
        "all but {left} ended in {took:?}, {:?} each",
        took / wanted as u32
    );
}

/// As many as have that many pairs.
fn clients(pairs: usize, [node, server]: [DiscoPublic; 2]) -> Vec<Client> {
    let count = (1..)
        .find(|n| n * (n - 1) / 2 >= pairs)
        .expect("there is one");
    let client = |n: usize| {
        let mut secret = [0x40; 32];
        secret[1..9].copy_from_slice(&n.to_be_bytes());
        let secret = SecretKey::from(secret);
        let shared = |other: DiscoPublic| SalsaBox::new(&PublicKey::from(other.0), &secret);
        Client {
            key: DiscoPublic(secret.public_key().to_bytes()),
            node: shared(node),
            server: shared(server),
            address: SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 41641)),
        }
    };
    (0..count).map(client).collect()
}

/// Allocates and binds; the relay's share of the time is added to `spent`. Each session is another
/// node's: the worst case.
fn open(
    relay: &mut Relay,
    n: usize,
    pair: [&Client; 2],
    spent: &mut Duration,
    now: Timestamp,
) -> Session {
    let [first, second] = pair;
    let request = Message::AllocateRequest {
        clients: [first.key, second.key],
        generation: Generation(1),
    };
    let frame = seal(&first.node, first.key, [9; 24], &request.marshal());
    let mut node = [0; 32];
    node[..8].copy_from_slice(&n.to_be_bytes());
    let peer = Peer {
        node_key: NodeKey(node),
        disco: Some(first.key),
        may_relay: true,
        unsigned_peer_api_only: false,
    };
    let start = Instant::now();
    let answer = relay
        .handle_derp(Some(&peer), &frame, now)
        .expect("allowed");
    *spent += start.elapsed();
    let answer = Frame::parse(&answer).and_then(|frame| frame.open(&first.node));
    let Some(Message::AllocateResponse { endpoint, .. }) = answer else {
        panic!("not the response: {answer:?}");
    };
    let vni = Vni::new(endpoint.vni).expect("a VNI");
    for (own, other) in [(first, second), (second, first)] {
        let common = BindCommon::first(vni.number(), 1, other.key);
        let mut send = |message: &Message| {
            let header = Header {
                control: true,
                protocol: PROTOCOL_DISCO,
                vni,
            };
            let frame = seal(&own.server, own.key, [9; 24], &message.marshal());
            let datagram = [&header.encode()[..], &frame].concat();
            let mut reply = [0; REPLY_LEN];
            let start = Instant::now();
            let verdict = relay.handle_datagram(own.address, None, &datagram, now, &mut reply);
            *spent += start.elapsed();
            (verdict, reply)
        };
        let (verdict, reply) = send(&Message::Bind(common));
        assert!(matches!(verdict, Verdict::Reply { .. }));
        let frame = Frame::parse(&reply[HEADER_LEN..]).and_then(|frame| frame.open(&own.server));
        let Some(Message::Challenge(challenge)) = frame else {
            panic!("no challenge");
        };
        let (verdict, _) = send(&Message::Answer(challenge));
        assert_eq!(verdict, Verdict::Consumed);
    }
    (vni, first.address)
}

/// Datagrams a second, each of another session than the one before.
fn forward(relay: &mut Relay, sessions: &[Session], now: Timestamp) -> f64 {
    let mut reply = [0; REPLY_LEN];
    let mut datagram = [0xa5; 200];
    let start = Instant::now();
    for n in 0..DATAGRAMS {
        // No order that a cache could learn.
        let (vni, source) = sessions[n.wrapping_mul(0x9e37_79b1) % sessions.len()];
        let header = Header {
            control: false,
            protocol: PROTOCOL_WIREGUARD,
            vni,
        };
        datagram[..HEADER_LEN].copy_from_slice(&header.encode());
        let verdict = relay.handle_datagram(source, None, &datagram, now, &mut reply);
        assert!(matches!(black_box(verdict), Verdict::Forward { .. }));
    }
    DATAGRAMS as f64 / start.elapsed().as_secs_f64()
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.expect("the second field is the resident size") * 4096
}
