//! Tests of the whole socket path on loopback, with real sockets and real handshakes.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod busy;
mod client;
mod observed;
mod restart;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use relay_proto::{Config, DiscoSecret, DropReason, Family, Keys, Peer, Vni};
use tokio::sync::mpsc::UnboundedSender;

use self::client::Client;
use super::{port_binder::BrokenSocket, *};

#[tokio::test]
async fn bound_clients_exchange_datagrams_unchanged() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    for len in [0, 1, 1_400, 9_000] {
        let datagram = a.data(vni, &vec![len as u8; len]);
        a.send(relay.v4(), &datagram);
        assert_eq!(b.receive(), datagram);
    }
    let snapshot = relay.handle.snapshot().await;
    assert_eq!(snapshot.sessions.open, 1);
    assert_eq!(snapshot.counters.forwarded[0][0].packets, 4);
    assert_eq!(snapshot.sockets, SocketCounters::default());
}

#[tokio::test]
async fn ipv4_and_ipv6_meet() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V6));
    let vni = relay.open(&a, &b).await;
    let datagram = a.data(vni, b"to the other side");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
    let datagram = b.data(vni, b"and back");
    b.send(relay.v6(), &datagram);
    assert_eq!(a.receive(), datagram);
}

/// A relay has many addresses, and answers each client from the one that the client has bound at.
#[tokio::test]
async fn datagrams_leave_from_the_address_that_the_receiver_knows() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    let other = SocketAddr::new("127.0.0.9".parse().unwrap(), relay.port);
    let datagram = a.data(vni, b"addressed elsewhere");
    a.send(other, &datagram);
    assert_eq!(b.receive_from(), (datagram, relay.v4()));
    b.bind_again(other, server_key(), vni, a.key, 2);
    let datagram = a.data(vni, b"to the other address");
    while relay.handle.snapshot().await.counters.rebinds == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive_from(), (datagram, other));
}

#[tokio::test]
async fn super_datagram_arrives_as_the_datagrams_it_was_made_of() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    let datagrams: Vec<_> = (0..20).map(|n| a.data(vni, &[n; 1_200])).collect();
    a.send_segments(relay.v4(), &datagrams);
    for datagram in &datagrams {
        assert_eq!(&b.receive(), datagram);
    }
}

/// The kernel merges datagrams by addresses, ports and length, so one buffer can hold several sessions
/// of a client.
#[tokio::test]
async fn super_datagram_of_two_sessions_is_taken_apart() {
    let relay = Fixture::start().await;
    let (a, b, c) = (Client::new(1, V4), Client::new(2, V4), Client::new(3, V6));
    let (ab, ac) = (relay.open(&a, &b).await, relay.open(&a, &c).await);
    let datagrams: Vec<_> = (0..10)
        .map(|n| a.data(if n % 2 == 0 { ab } else { ac }, &[n; 300]))
        .collect();
    a.send_segments(relay.v4(), &datagrams);
    for (n, datagram) in datagrams.iter().enumerate() {
        let receiver = if n % 2 == 0 { &b } else { &c };
        assert_eq!(&receiver.receive(), datagram);
    }
}

/// The kernel steers a buffer by its first segment, although others may belong to other threads.
#[tokio::test]
async fn super_datagram_of_sessions_of_all_threads_reaches_each() {
    let relay = Fixture::start().await;
    let a = Client::new(1, V4);
    let others: Vec<_> = (2..26).map(|n| Client::new(n, V4)).collect();
    let mut sessions = Vec::new();
    for other in &others {
        sessions.push((relay.open(&a, other).await, other));
    }
    let threads: std::collections::BTreeSet<_> = sessions
        .iter()
        .map(|(vni, _)| Workers::thread(relay_proto::Shard::of(*vni), 3))
        .collect();
    assert_eq!(threads.len(), 3, "24 sessions are on every thread");
    let datagrams: Vec<_> = sessions
        .iter()
        .map(|(vni, _)| a.data(*vni, &vni.number().to_be_bytes()))
        .collect();
    a.send_segments(relay.v4(), &datagrams);
    for ((_, other), datagram) in sessions.iter().zip(&datagrams) {
        assert_eq!(&other.receive(), datagram);
        other.send(relay.v4(), datagram);
        assert_eq!(&a.receive(), datagram);
    }
    let snapshot = relay.handle.snapshot().await;
    assert_eq!(snapshot.sessions.open, 24);
    assert_eq!(snapshot.counters.forwarded[0][0].packets, 48);
    assert_eq!(snapshot.counters.drops.iter().sum::<u64>(), 0);
}

#[tokio::test]
async fn limits_hold_over_all_threads() {
    let mut options = options(0);
    options.config.max_sessions_per_node = 5;
    let handle = fixture::spawn(options);
    handle.set_addresses(vec!["192.0.2.1:40000".parse().unwrap()]);
    let a = Client::new(1, V4);
    for number in 2..30 {
        let other = Client::new(number, V4);
        let request = a.request(other.key);
        handle.handle_derp(|| Some(a.peer()), request).await.ok();
        let connecting = handle.snapshot().await.sessions.connecting;
        assert!(connecting <= 5, "{connecting}");
    }
    assert_eq!(handle.snapshot().await.sessions.connecting, 5);
    let lamports = handle.sessions().await.into_iter().map(|s| s.lamport);
    assert_eq!(lamports.collect::<std::collections::BTreeSet<_>>().len(), 5);
}

#[tokio::test]
async fn strangers_get_no_answer_and_are_counted() {
    let relay = Fixture::start().await;
    let stranger = Client::new(9, V4);
    let vni = Vni::new(4_711).unwrap();
    stranger.send(relay.v4(), &[]);
    stranger.send(relay.v4(), b"short");
    stranger.send(relay.v4(), &stranger.data(vni, &[7; 60_000]));
    // An answer to these would come before the answers to a later request.
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    relay.open(&a, &b).await;
    assert!(stranger.hears_nothing());
    let counters = relay.handle.snapshot().await.counters;
    assert_eq!(counters.dropped(DropReason::Malformed), 2);
    assert_eq!(counters.dropped(DropReason::UnknownVni), 1);
}

#[tokio::test]
async fn draining_keeps_sessions_and_gives_out_none() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    relay.handle.drain();
    relay.handle.set_accepting(true);
    let refused = relay
        .handle
        .handle_derp(|| Some(a.peer()), a.request(b.key))
        .await;
    assert_eq!(refused, Err(DropReason::NotAccepting));
    let datagram = a.data(vni, b"still flows");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
}

#[tokio::test]
async fn a_node_whose_right_has_ended_has_no_session_and_gets_none() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    relay.open(&a, &b).await;
    let ask = async || {
        let request = a.request(b.key);
        relay.handle.handle_derp(|| Some(a.peer()), request).await
    };
    assert_eq!(relay.handle.holders(), [a.peer().node_key].into());
    relay.handle.revoke([b.peer().node_key].into());
    assert_eq!(relay.handle.snapshot().await.sessions.open, 1);
    relay.handle.revoke([a.peer().node_key].into());
    let refused = Peer {
        may_relay: false,
        ..a.peer()
    };
    let request = a.request(b.key);
    let refused = relay.handle.handle_derp(|| Some(refused), request).await;
    assert_eq!(refused, Err(DropReason::NoGrant));
    let snapshot = relay.handle.snapshot().await;
    assert!(relay.handle.holders().is_empty());
    assert_eq!((snapshot.sessions.open, snapshot.counters.revoked), (0, 1));
    assert_eq!(snapshot.counters.dropped(DropReason::NoGrant), 1);
    ask().await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_relay_keeps_sessions_and_gives_out_others_once_it_is_back() {
    let relay = Fixture::start().await;
    let (a, b, c) = (Client::new(1, V4), Client::new(2, V4), Client::new(3, V4));
    let vni = relay.open(&a, &b).await;
    relay.handle.set_withdrawn(true);
    relay.handle.set_accepting(true);
    for other in [b.key, c.key] {
        let refused = relay
            .handle
            .handle_derp(|| Some(a.peer()), a.request(other))
            .await;
        assert_eq!(refused, Err(DropReason::NotAccepting));
    }
    let datagram = a.data(vni, b"still flows");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
    assert_eq!(relay.handle.snapshot().await.forwarded(), 1);
    relay.handle.set_withdrawn(false);
    relay.open(&a, &c).await;
}

#[tokio::test]
async fn allocator_memory_is_freed_once_nobody_asks() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    for _ in 0..2 {
        let request = a.request(b.key);
        let answer = relay.handle.handle_derp(|| Some(a.peer()), request).await;
        answer.unwrap();
        let tidy = async {
            while !relay.handle.dispatcher.is_clean() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, tidy).await.unwrap();
    }
}

#[tokio::test]
async fn a_taken_port_is_reported_and_bound_once_it_is_free() {
    let holder = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let handle = fixture::spawn(options(port));
    let mut state = handle.port();
    let taken = PortState::Failed(PortProblem::Taken(port));
    state.wait_for(|state| *state == taken).await.unwrap();
    drop(holder);
    state
        .wait_for(|state| *state == PortState::Bound(port))
        .await
        .unwrap();
    handle.stop();
}

/// All sockets of the IP version are replaced together, because the kernel steers by position.
#[tokio::test]
async fn socket_that_broke_is_bound_again_and_sessions_go_on() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    for generation in [1, 1, 0] {
        let family = Family::V4;
        relay.break_socket(family, generation);
    }
    while relay.handle.snapshot().await.sockets.rebinds == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let datagram = a.data(vni, b"over the new socket");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
    assert_eq!(relay.handle.snapshot().await.sockets.rebinds, 1);
}

const PATIENCE: Duration = Duration::from_secs(10);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A socket path on a port of its own, which ends with this value.
struct Fixture {
    handle: SocketPathHandle,
    port: u16,
    broken: UnboundedSender<BrokenSocket>,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(options(0)).await
    }

    async fn with(options: SocketPathOptions) -> Self {
        let (handle, driver) = spawn(options).unwrap();
        let broken = driver.port_binder.broken();
        fixture::run_in_background(driver);
        let port = fixture::bound(&handle).await;
        // An address of nobody, because a client at an advertised address never binds.
        handle.set_addresses(vec!["192.0.2.1:40000".parse().unwrap()]);
        Self {
            handle,
            port,
            broken,
        }
    }

    fn v4(&self) -> SocketAddr {
        SocketAddr::new(V4, self.port)
    }

    fn v6(&self) -> SocketAddr {
        SocketAddr::new(V6, self.port)
    }

    /// Opens a session that both clients have bound.
    async fn open(&self, a: &Client, b: &Client) -> Vni {
        let response = self
            .handle
            .handle_derp(|| Some(a.peer()), a.request(b.key))
            .await
            .unwrap();
        let vni = a.read_response(node_key(), &response);
        for (client, other) in [(a, b), (b, a)] {
            let relay = if client.address().is_ipv4() {
                self.v4()
            } else {
                self.v6()
            };
            client.bind(relay, server_key(), vni, other.key);
        }
        // The last answer of the handshake gets no reply that could be waited for.
        while !self.is_open(vni).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        vni
    }

    /// Reports a broken socket, as a worker thread does.
    fn break_socket(&self, family: Family, generation: u64) {
        self.broken
            .send(BrokenSocket { family, generation })
            .unwrap();
    }

    async fn is_open(&self, vni: Vni) -> bool {
        let sessions = self.handle.sessions().await;
        let session = sessions.iter().find(|session| session.vni == vni);
        session.is_some_and(|s| s.legs.iter().all(|leg| leg.address.is_some()))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.handle.stop();
    }
}

fn options(port: u16) -> SocketPathOptions {
    SocketPathOptions {
        config: Config {
            allow_loopback_bind: true,
            ..Config::default()
        },
        keys: Keys {
            node: secret(0x11),
            server: secret(0x22),
        },
        ..fixture::options(port, 3)
    }
}

fn secret(byte: u8) -> DiscoSecret {
    DiscoSecret::from_bytes([byte; 32])
}

fn node_key() -> relay_proto::DiscoPublic {
    secret(0x11).public()
}

fn server_key() -> relay_proto::DiscoPublic {
    secret(0x22).public()
}
