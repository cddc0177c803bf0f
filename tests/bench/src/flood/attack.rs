//! The attacks and their datagrams.

use std::{
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result};
use relay_proto::{DiscoPublic, KEY_LEN, Vni, disco::MAGIC, geneve::HEADER_LEN};
use rig::signals;
use serde::{Deserialize, Serialize};

use crate::{
    case::Bound,
    server::Server,
    session::Client,
    system::{self, BURST},
    topology::{self, Link, Side},
};

/// Datagrams, or requests, that are made beforehand and sent over and over.
const POOL: usize = 4_096;
/// Requests of a storm: more than a node may have sessions.
const REQUESTS: usize = 20_000;
/// Requests that wait for their answer at the same time.
const IN_FLIGHT: usize = 64;
/// Greater than that of any handshake before.
const GENERATION: u32 = 1_000;

/// Kinds of attack.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attack {
    /// Datagrams that get no answer: noise, unknown VNIs, sealed messages that do not open.
    Junk,
    /// First messages of handshakes, rightly sealed by the clients of the bound sessions, from
    /// many addresses that are not theirs.
    Binds,
    /// Requests for ever new sessions, by one node that the policy allows.
    Allocations,
}

impl Attack {
    /// Every attack, in the order of the report.
    pub const ALL: [Self; 3] = [Self::Junk, Self::Binds, Self::Allocations];
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Junk => "junk",
            Self::Binds => "spoofed binds",
            Self::Allocations => "allocation storm",
        })
    }
}

/// Ready to attack.
pub enum Attacker {
    /// Sends every datagram from one socket after another.
    Datagrams {
        /// Connected to the relay.
        sockets: Vec<UdpSocket>,
        /// The datagrams that are sent.
        pool: Vec<Vec<u8>>,
    },
    /// Requests for sessions, over DERP.
    Requests(Vec<Vec<u8>>),
}

impl Attacker {
    /// Makes what it will send; for a storm, the node has as many sessions as it may by then.
    pub fn new(attack: Attack, server: &mut Server, bound: &Bound) -> Result<Self> {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let client = &bound.clients[0];
        let link = Link::of(server.implementation);
        match attack {
            Attack::Junk => Ok(Self::Datagrams {
                sockets: open(&[client.socket.local_addr()?.ip()], 16, client.relay)?,
                pool: (0..POOL)
                    .map(|n| junk(n, bound, &mut noise))
                    .collect::<Result<_>>()?,
            }),
            Attack::Binds => Ok(Self::Datagrams {
                sockets: open(&topology::add_sources(link)?, 1, client.relay)?,
                pool: (0..bound.sessions.len())
                    .map(|n| bind(n, bound))
                    .collect::<Result<_>>()?,
            }),
            Attack::Allocations => {
                let others = (0..REQUESTS).map(|_| DiscoPublic(noise.key()));
                let requests: Vec<_> = others.map(|other| client.request(other)).collect();
                for chunk in requests.chunks(IN_FLIGHT) {
                    server.relay.ask(chunk)?;
                }
                Ok(Self::Requests(requests))
            }
        }
    }

    /// Sends as fast as it can until `stop`; says how much.
    pub fn run(&mut self, server: &mut Server, stop: &AtomicBool) -> Result<u64> {
        let mut sent = 0;
        match self {
            Self::Datagrams { sockets, pool } => {
                for (socket, datagram) in sockets.iter().cycle().zip(pool.iter().cycle()) {
                    match system::send_many(socket, datagram, BURST) {
                        Ok(count) => sent += count as u64,
                        Err(error) if is_passing(&error) => {}
                        Err(error) => return Err(error).context("failed to attack"),
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            Self::Requests(requests) => {
                for chunk in requests.chunks(IN_FLIGHT).cycle() {
                    server.relay.ask(chunk)?;
                    sent += chunk.len() as u64;
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        }
        signals::check()?;
        Ok(sent)
    }
}

/// `count` sockets on each address.
fn open(addresses: &[IpAddr], count: usize, relay: SocketAddr) -> Result<Vec<UdpSocket>> {
    system::inside(Side::A.namespace(), || {
        let addresses = addresses.iter().flat_map(|ip| (0..count).map(move |_| *ip));
        let socket = |ip| {
            let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(relay)?;
            Ok(socket)
        };
        addresses.map(socket).collect()
    })
}

/// Makes a datagram of one of five kinds of junk.
fn junk(number: usize, bound: &Bound, noise: &mut Noise) -> Result<Vec<u8>> {
    /// The offset of the sender's key in a handshake message.
    const SENDER: usize = HEADER_LEN + MAGIC.len();
    let unknown = Vni::new(noise.next() as u32 >> 8).context("noise is never zero")?;
    Ok(match number % 5 {
        0 => (0..noise.next() % 1_400)
            .map(|_| noise.next() as u8)
            .collect(),
        1 => Client::datagram(unknown, 200),
        2 => {
            let mut message = bind(number, bound)?;
            message[4..7].copy_from_slice(&unknown.number().to_be_bytes()[1..]);
            message
        }
        3 => {
            let mut message = bind(number, bound)?;
            message[SENDER..][..KEY_LEN].copy_from_slice(&noise.key());
            message
        }
        _ => {
            let mut message = bind(number, bound)?;
            let last = message.len() - 1;
            message[last] ^= 1;
            message
        }
    })
}

/// The first message of a handshake for one of the sessions.
fn bind(number: usize, bound: &Bound) -> Result<Vec<u8>> {
    let session = &bound.sessions[number % bound.sessions.len()];
    let [own, other] = session.clients.map(|client| &bound.clients[client]);
    own.bind(session.vni, GENERATION, other.key)
}

/// Says whether a connected socket gives this error because of an overload.
fn is_passing(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || error.kind() == ErrorKind::ConnectionRefused
        || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Numbers without a pattern that matters here (xorshift), the same in every run.
struct Noise(u64);

impl Noise {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn key(&mut self) -> [u8; KEY_LEN] {
        std::array::from_fn(|_| self.next() as u8)
    }
}
