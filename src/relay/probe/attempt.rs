//! One attempt at one address, from a socket of its own: as a client would.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use relay_proto::{
    DiscoPublic, DiscoSecret, REPLY_LEN,
    client::{Channel, Handshake},
};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until, timeout_at},
};

use crate::relay::socket_path::PROBE_HEADER;

/// Time that each bind of an attempt waits for its challenge.
const WAITS: [Duration; 3] = [
    Duration::from_millis(700),
    Duration::from_millis(1_300),
    Duration::from_secs(2),
];

/// Result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptResult {
    /// The relay answered in this time.
    Reached(Duration),
    /// Nothing came back.
    Silent,
    /// This host has no way there, such as no IPv6: nothing was learnt.
    NoRoute,
}

/// Attempts with the key of this relay.
pub(super) struct Attempt {
    secret: DiscoSecret,
    generation: AtomicU32,
}

impl Attempt {
    pub(super) const fn new(secret: DiscoSecret) -> Self {
        Self {
            secret,
            generation: AtomicU32::new(1),
        }
    }

    /// Tries to reach the relay with this key at `address`.
    pub(super) async fn run(&self, key: DiscoPublic, address: SocketAddr) -> AttemptResult {
        let any: SocketAddr = match address.is_ipv4() {
            true => (Ipv4Addr::UNSPECIFIED, 0).into(),
            false => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let Ok(socket) = UdpSocket::bind(any).await else {
            return AttemptResult::NoRoute;
        };
        // Looks up a route, sends nothing.
        if socket.connect(address).await.is_err() {
            return AttemptResult::NoRoute;
        }
        let channel = Channel::new(&self.secret, key);
        for wait in WAITS {
            // A new number for each bind, of all targets: a responder answers no number of this relay
            // twice.
            let generation = self.generation.fetch_add(1, Ordering::Relaxed);
            let handshake = Handshake::probe(PROBE_HEADER, generation, key);
            let start = Instant::now();
            // A datagram that cannot be sent gets no answer either.
            socket
                .send(&handshake.bind(&channel, rand::random()))
                .await
                .ok();
            if let Some(answer) = answer(&socket, &handshake, &channel, start + wait).await {
                let round_trip = start.elapsed();
                socket.send(&answer).await.ok();
                return AttemptResult::Reached(round_trip);
            }
        }
        AttemptResult::Silent
    }
}

/// The answer to the handshake's challenge, if that comes before `deadline`.
async fn answer(
    socket: &UdpSocket,
    handshake: &Handshake,
    channel: &Channel,
    deadline: Instant,
) -> Option<Vec<u8>> {
    // One byte more than a reply has: a longer datagram must not be cut to the length of one.
    let mut buffer = [0; REPLY_LEN + 1];
    loop {
        let received = timeout_at(deadline, socket.recv(&mut buffer)).await.ok()?;
        // An ICMP error: the next bind may fare better.
        let Ok(len) = received else {
            sleep_until(deadline).await;
            return None;
        };
        let answer = handshake.answer(channel, rand::random(), &buffer[..len]);
        if answer.is_some() {
            return answer;
        }
    }
}
