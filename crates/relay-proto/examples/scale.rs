//! A measurement of a core with many sessions: memory of each, datagrams a second with a thousand of
//! them and with all, and the time that it takes to end all.
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

use relay_proto::{
    Config, DiscoPublic, DiscoSecret, Keys, NodeKey, Peer, REPLY_LEN, Relay, Timestamp, Verdict,
    Vni,
    client::{self, Channel, Handshake},
    geneve::{HEADER_LEN, Header, PROTOCOL_WIREGUARD},
};

/// Datagrams of one measurement.
const DATAGRAMS: usize = 4_000_000;
/// These keys protect nothing.
const NONCE: [u8; 24] = [9; 24];

struct Client {
    client: client::Client,
    node: Channel,
    server: Channel,
    address: SocketAddr,
}

/// A bound session: its VNI and its first client's address.
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

/// The fewest clients that have this many pairs.
fn clients(pairs: usize, [node, server]: [DiscoPublic; 2]) -> Vec<Client> {
    let count = (1..)
        .find(|n| n * (n - 1) / 2 >= pairs)
        .expect("there is one");
    let client = |n: usize| {
        let client = client::Client::numbered(n as u64);
        Client {
            node: client.channel(node),
            server: client.channel(server),
            client,
            address: SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 41641)),
        }
    };
    (0..count).map(client).collect()
}

/// Allocates and binds a session, and adds the relay's share of the time to `spent`. Each session
/// belongs to another node, which is the worst case.
fn open(
    relay: &mut Relay,
    n: usize,
    pair: [&Client; 2],
    spent: &mut Duration,
    now: Timestamp,
) -> Session {
    let [first, second] = pair;
    let clients = [first.client.key, second.client.key];
    let request = first.node.request(NONCE, clients, 1);
    let mut node = [0; 32];
    node[..8].copy_from_slice(&n.to_be_bytes());
    let peer = Peer {
        node_key: NodeKey(node),
        ..first.client.peer()
    };
    let start = Instant::now();
    let answer = relay
        .handle_derp(Some(&peer), &request, now)
        .expect("allowed");
    *spent += start.elapsed();
    let endpoint = first.node.allocation(1, &answer);
    let vni = endpoint.and_then(|endpoint| Vni::new(endpoint.vni));
    let vni = vni.expect("the relay allocates a session");
    for (own, other) in [(first, second), (second, first)] {
        let handshake = Handshake::new(vni, 1, other.client.key);
        let mut send = |datagram: &[u8]| {
            let mut reply = [0; REPLY_LEN];
            let start = Instant::now();
            let verdict = relay.handle_datagram(own.address, None, datagram, now, &mut reply);
            *spent += start.elapsed();
            (verdict, reply)
        };
        let (verdict, reply) = send(&handshake.bind(&own.server, NONCE));
        assert!(matches!(verdict, Verdict::Reply { .. }));
        let answer = handshake.answer(&own.server, NONCE, &reply);
        let (verdict, _) = send(&answer.expect("the relay replies with a challenge"));
        assert_eq!(verdict, Verdict::Consumed);
    }
    (vni, first.address)
}

/// Measures datagrams a second, each of another session than the one before.
fn forward(relay: &mut Relay, sessions: &[Session], now: Timestamp) -> f64 {
    let mut reply = [0; REPLY_LEN];
    let mut datagram = [0xa5; 200];
    let start = Instant::now();
    for n in 0..DATAGRAMS {
        // The order is one that no cache learns.
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

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has this file");
    let pages = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok());
    pages.expect("the second field is the resident size") * 4096
}
