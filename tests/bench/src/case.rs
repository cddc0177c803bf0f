//! The matrix: what is sent, over how many sessions.

use std::{
    fmt,
    net::{SocketAddr, UdpSocket},
};

use anyhow::{Context, Result};

use super::{
    cpu::Cpu,
    implementation::Implementation,
    load::{Arrivals, Flow},
    server::Server,
    session::{self, Client, ClientFactory, Session},
    system,
    topology::{Family, Link, Side},
};

/// A case of the matrix: sizes, sessions and IP versions of the load.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Sessions that take turns.
    pub sessions: usize,
    /// Bytes of each datagram's payload, Geneve header included.
    pub size: usize,
    /// Datagrams that the sender hands to the kernel as one buffer; 1 without segmentation.
    pub segments: usize,
    /// IP version of the sending and of the receiving client.
    pub families: (Family, Family),
    /// True if latency is measured, too.
    pub latency: bool,
}

/// The whole matrix.
pub fn matrix() -> Vec<Case> {
    use Family::{V4, V6};
    let case = |sessions, size, segments, families| Case {
        sessions,
        size,
        segments,
        families,
        latency: sessions == 64 && size == 200 && segments == 1,
    };
    let v4 = [
        (1, 1400, 1),
        (1, 1400, 40),
        (1, 200, 1),
        (1, 200, 40),
        (64, 1400, 1),
        (64, 1400, 8),
        (64, 200, 1),
        (64, 200, 8),
        (1000, 1320, 1),
        (1000, 1320, 8),
        (1000, 200, 1),
    ];
    let mut cases: Vec<_> = v4
        .into_iter()
        .map(|(sessions, size, segments)| case(sessions, size, segments, (V4, V4)))
        .collect();
    for families in [(V6, V6), (V4, V6)] {
        cases.push(case(64, 200, 1, families));
        cases.push(case(1, 1400, 40, families));
    }
    cases
}

impl Case {
    /// The IP versions, for a table.
    pub const fn path(&self) -> &'static str {
        match self.families {
            (Family::V4, Family::V4) => "v4",
            (Family::V6, Family::V6) => "v6",
            (Family::V4, Family::V6) => "v4-v6",
            (Family::V6, Family::V4) => "v6-v4",
        }
    }

    /// Says whether the implementation supports the case: only a relay joins IP versions. The direct path of
    /// both is IPv4's.
    pub fn suits(&self, implementation: Implementation) -> bool {
        let same = self.families.0 == self.families.1;
        same || implementation.is_relay() || implementation == Implementation::Direct
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{} {:>4} x {:>4} B, segments {}",
            self.path(),
            self.sessions,
            self.size,
            self.segments
        );
        f.pad(&text)
    }
}

/// An implementation that is ready to carry the load of a case.
#[derive(Debug)]
pub struct Prepared {
    /// The implementation.
    pub implementation: Implementation,
    /// The flows of the load.
    pub flows: Vec<Flow>,
    /// The sockets at which the load arrives.
    pub receivers: Vec<UdpSocket>,
    /// The counters of what arrived.
    pub arrivals: Arrivals,
    /// The source of the CPU time.
    pub cpu: Cpu,
}

impl Prepared {
    /// Opens the flows of a case; `server` where the implementation is a relay.
    pub fn new(
        implementation: Implementation,
        case: &Case,
        server: Option<&mut Server>,
        clients: &mut ClientFactory,
    ) -> Result<Self> {
        let mut families = case.families;
        let (pairs, pid) = match server {
            Some(server) => {
                let bound = Bound::open(server, case, clients)?;
                (bound.pairs(case.size)?, Some(server.pid()?))
            }
            None => {
                families.1 = families.0;
                (plain(implementation, case)?, None)
            }
        };
        let mut flows = Vec::with_capacity(pairs.len());
        let mut receivers = Vec::with_capacity(pairs.len());
        for (socket, receiver, datagram) in pairs {
            if case.segments > 1 {
                system::set_segment(&socket, case.size)?;
            }
            flows.push(Flow {
                socket,
                bytes: datagram.repeat(case.segments),
            });
            receivers.push(receiver);
        }
        Ok(Self {
            implementation,
            flows,
            receivers,
            arrivals: Arrivals::of(Link::of(implementation), families.1, case.size)?,
            cpu: Cpu::new(pid)?,
        })
    }
}

type Pair = (UdpSocket, UdpSocket, Vec<u8>);

/// Sessions of a case, each between two clients of its own.
#[derive(Debug)]
pub struct Bound {
    /// The clients of the sessions.
    pub clients: Vec<Client>,
    /// The bound sessions.
    pub sessions: Vec<Session>,
}

impl Bound {
    /// Allocates and binds them.
    pub fn open(server: &mut Server, case: &Case, clients: &mut ClientFactory) -> Result<Self> {
        let (a, b) = case.families;
        let sides: Vec<_> = (0..case.sessions)
            .flat_map(|_| [(Side::A, a), (Side::B, b)])
            .collect();
        let mut clients = clients.make(server, &sides)?;
        let pairs: Vec<_> = (0..case.sessions).map(|n| [2 * n, 2 * n + 1]).collect();
        let sessions = session::open(server, &mut clients, &pairs)?;
        Ok(Self { clients, sessions })
    }

    /// Sending and receiving socket of each, connected to the relay, and a datagram of `size` bytes.
    pub fn pairs(&self, size: usize) -> Result<Vec<Pair>> {
        let pair = |session: &Session| {
            let [a, b] = session.clients.map(|client| &self.clients[client]);
            // Sending costs less where the destination is known.
            a.socket.connect(a.relay)?;
            b.socket.connect(b.relay)?;
            let datagram = Client::datagram(session.vni, size);
            Ok((a.socket.try_clone()?, b.socket.try_clone()?, datagram))
        };
        self.sessions.iter().map(pair).collect()
    }
}

/// Flows between sockets, through whatever stands between the clients.
fn plain(implementation: Implementation, case: &Case) -> Result<Vec<Pair>> {
    let link = Link::of(implementation);
    let family = case.families.0;
    let open = |side: Side| {
        let address = SocketAddr::new(link.client(side, family), 0);
        system::inside(side.namespace(), || {
            (0..case.sessions)
                .map(|_| session::socket(address))
                .collect::<Result<Vec<_>>>()
        })
    };
    // As a relay's data: the header's content does not matter here.
    let vni = relay_proto::Vni::new(1).context("1 is a VNI")?;
    let datagram = Client::datagram(vni, case.size);
    let pairs = open(Side::A)?.into_iter().zip(open(Side::B)?);
    pairs
        .map(|(sender, receiver)| {
            // The translation keeps the port.
            let to = match implementation {
                Implementation::Dnat => link.relay(Side::A, family),
                _ => link.client(Side::B, family),
            };
            sender.connect(SocketAddr::new(to, receiver.local_addr()?.port()))?;
            Ok((sender, receiver, datagram.clone()))
        })
        .collect()
}
