//! The whole data path on loopback: real sockets, real handshakes, one thread.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod client;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use relay_proto::{Config, DiscoSecret, DropReason, Keys, Vni};

use self::client::Client;
use super::*;

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

/// The kernel merges by addresses, ports and length: sessions of one client come in one buffer.
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

#[tokio::test]
async fn strangers_get_no_answer_and_are_counted() {
    let relay = Fixture::start().await;
    let stranger = Client::new(9, V4);
    let vni = Vni::new(4_711).unwrap();
    stranger.send(relay.v4(), &[]);
    stranger.send(relay.v4(), b"short");
    stranger.send(relay.v4(), &stranger.data(vni, &[7; 60_000]));
    // An answer to a later request would come after one to these.
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
        .handle_derp(Some(a.peer()), a.request(b.key))
        .await;
    assert_eq!(refused, Err(DropReason::NotAccepting));
    let datagram = a.data(vni, b"still flows");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
}

#[tokio::test]
async fn port_that_is_taken_is_said_and_bound_once_it_is_free() {
    let holder = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let (handle, _) = spawn(options(port)).unwrap();
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

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A relay on a port of its own; it ends with this.
struct Fixture {
    handle: ShardHandle,
    port: u16,
}

impl Fixture {
    async fn start() -> Self {
        let (handle, _) = spawn(options(0)).unwrap();
        let mut state = handle.port();
        let bound = state
            .wait_for(|state| matches!(state, PortState::Bound(_)))
            .await
            .unwrap();
        let PortState::Bound(port) = *bound else {
            unreachable!("waited for it")
        };
        drop(bound);
        // Not the ones that it is reached by: what it advertises never binds.
        handle.set_addresses(vec!["192.0.2.1:40000".parse().unwrap()]);
        Self { handle, port }
    }

    fn v4(&self) -> SocketAddr {
        SocketAddr::new(V4, self.port)
    }

    fn v6(&self) -> SocketAddr {
        SocketAddr::new(V6, self.port)
    }

    /// A session that both have bound.
    async fn open(&self, a: &Client, b: &Client) -> Vni {
        let response = self
            .handle
            .handle_derp(Some(a.peer()), a.request(b.key))
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
        // The last answer is consumed without a reply: wait until it was.
        while !self.is_open(vni).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        vni
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

fn options(port: u16) -> ShardOptions {
    ShardOptions {
        port,
        config: Config {
            allow_loopback_bind: true,
            ..Config::default()
        },
        keys: Keys {
            node: secret(0x11),
            server: secret(0x22),
        },
        seed: [3; 32],
        first_lamport: 1,
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
