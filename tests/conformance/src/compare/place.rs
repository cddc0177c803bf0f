//! Places from which datagrams come and where they arrive: sockets on loopback, each for an address
//! of the network.

use std::{
    io::ErrorKind,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result};

use super::subject::Arrival;

/// Sockets on other hosts, two on each, with IPv4 and with IPv6.
const ELSEWHERE: [usize; 2] = [5, 3];

/// The meaning of a place for a relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A place on another host.
    Elsewhere,
    /// An address that the relay advertises as its own.
    Own,
    /// The relay's host.
    Loopback,
}

/// A socket, and which address it stands for.
#[derive(Debug)]
pub struct Place {
    /// The meaning of the place for a relay.
    pub kind: Kind,
    /// The address on loopback, which Go's relay sees.
    pub real: SocketAddr,
    /// The address it stands for, which our relay is given: it binds nothing on loopback.
    pub seen: SocketAddr,
    socket: UdpSocket,
}

/// All places; a number names one.
#[derive(Debug)]
pub struct Places(Vec<Place>);

impl Places {
    /// Opens the sockets. Without IPv6 there are fewer.
    pub fn open() -> Result<Self> {
        let mut places = Vec::new();
        for n in 1..=ELSEWHERE[0] as u8 {
            places.push(Place::open("127.0.0.1:0", Kind::Elsewhere, |real| {
                SocketAddr::from(([198, 51, 100, n.div_ceil(2)], real.port()))
            })?);
        }
        places.push(Place::open("127.0.0.1:0", Kind::Own, |real| {
            SocketAddr::from(([203, 0, 113, 1], real.port()))
        })?);
        places.push(Place::open("127.0.0.1:0", Kind::Loopback, |real| real)?);
        if has_ipv6() {
            for n in 1..=ELSEWHERE[1] as u16 {
                let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.div_ceil(2));
                places.push(Place::open("[::1]:0", Kind::Elsewhere, |real| {
                    SocketAddr::from((ip, real.port()))
                })?);
            }
        }
        Ok(Self(places))
    }

    /// The number of places.
    pub const fn count(&self) -> usize {
        self.0.len()
    }

    /// The place number `at`.
    pub fn get(&self, at: usize) -> &Place {
        &self.0[at]
    }

    /// Numbers of places of a kind.
    pub fn of(&self, kind: Kind) -> Vec<usize> {
        (0..self.count())
            .filter(|at| self.0[*at].kind == kind)
            .collect()
    }

    /// The place with this address, as one of the relays sees it.
    pub fn find(&self, address: SocketAddr) -> Option<usize> {
        self.0
            .iter()
            .position(|place| [place.real, place.seen].contains(&address))
    }

    /// Takes the datagrams that have arrived at any place.
    pub fn drain(&self) -> Result<Vec<Arrival>> {
        let mut arrived = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        for (at, place) in self.0.iter().enumerate() {
            loop {
                match place.socket.recv(&mut buffer) {
                    Ok(len) => arrived.push(Arrival {
                        place: at,
                        datagram: buffer[..len].to_vec(),
                    }),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("failed to receive"),
                }
            }
        }
        Ok(arrived)
    }
}

impl Place {
    fn open(
        bind: &str,
        kind: Kind,
        stands_for: impl FnOnce(SocketAddr) -> SocketAddr,
    ) -> Result<Self> {
        let socket = UdpSocket::bind(bind).context("failed to open a socket on loopback")?;
        socket.set_nonblocking(true)?;
        let real = socket.local_addr()?;
        Ok(Self {
            kind,
            real,
            seen: stands_for(real),
            socket,
        })
    }

    /// Sends a datagram from here.
    pub fn send(&self, datagram: &[u8], to: SocketAddr) -> Result<()> {
        let sent = self.socket.send_to(datagram, to);
        sent.map(drop).context("failed to send on loopback")
    }
}

/// Says whether this machine has an IPv6 loopback.
pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::1]:0").is_ok()
}
