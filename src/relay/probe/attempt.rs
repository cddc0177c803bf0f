//! One attempt at one address, from a socket of its own: as a client would.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use relay_proto::{
    DiscoPublic, DiscoSecret, REPLY_LEN, SharedBox,
    disco::{BindCommon, Frame, Message, seal},
};
use tokio::{
    net::UdpSocket,
    time::{Instant, sleep_until, timeout_at},
};

use crate::relay::socket_path::PROBE_HEADER;

/// How long each bind waits for its challenge.
const WAITS: [Duration; 3] = [
    Duration::from_millis(700),
    Duration::from_millis(1_300),
    Duration::from_secs(2),
];

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptResult {
    /// The relay answered in this time.
    Reached(Duration),
    /// Nothing came back.
    Silent,
    /// This host has no way there, such as no IPv6: nothing was learnt.
    NoRoute,
}

/// Makes attempts with one key.
pub(super) struct Attempt {
    secret: DiscoSecret,
    public: DiscoPublic,
    generation: AtomicU32,
}

impl Attempt {
    pub(super) fn new(secret: DiscoSecret) -> Self {
        Self {
            public: secret.public(),
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
        let shared = self.secret.shared_with(key);
        for wait in WAITS {
            let bind = BindCommon::first(0, self.generation.fetch_add(1, Ordering::Relaxed), key);
            let start = Instant::now();
            self.send(&socket, &shared, &Message::Bind(bind)).await;
            let deadline = start + wait;
            let challenge = challenge(&socket, &shared, key, bind, deadline).await;
            if let Some(challenge) = challenge {
                let round_trip = start.elapsed();
                self.send(&socket, &shared, &Message::Answer(challenge))
                    .await;
                return AttemptResult::Reached(round_trip);
            }
        }
        AttemptResult::Silent
    }

    /// What cannot be sent gets no answer either.
    async fn send(&self, socket: &UdpSocket, shared: &SharedBox, message: &Message) {
        let sealed = seal(shared, self.public, rand::random(), &message.marshal());
        let datagram = [&PROBE_HEADER[..], &sealed].concat();
        socket.send(&datagram).await.ok();
    }
}

/// The challenge for `bind`, if it comes before `deadline`.
async fn challenge(
    socket: &UdpSocket,
    shared: &SharedBox,
    key: DiscoPublic,
    bind: BindCommon,
    deadline: Instant,
) -> Option<BindCommon> {
    let mut buffer = [0; REPLY_LEN + 1];
    loop {
        let received = timeout_at(deadline, socket.recv(&mut buffer)).await.ok()?;
        // An ICMP error: the next bind may fare better.
        let Ok(len) = received else {
            sleep_until(deadline).await;
            return None;
        };
        let frame = buffer[..len].strip_prefix(&PROBE_HEADER);
        let frame = frame.and_then(Frame::parse).filter(|f| f.sender == key);
        let Some(Message::Challenge(challenge)) = frame.and_then(|f| f.open(shared)) else {
            continue;
        };
        let asked = BindCommon {
            challenge: bind.challenge,
            ..challenge
        };
        if asked == bind {
            return Some(challenge);
        }
    }
}
