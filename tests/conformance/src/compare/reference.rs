//! Tailscale's relay, as a process on loopback.
//!
//! A relay may do nothing with a datagram, and nothing cannot be waited for. So after
//! each datagram a mark is sent, twice, through a session of its own, and waited for. Each of Go's
//! sockets has one thread, which reads a batch, handles it in order, and then writes what came of
//! it, to one destination after the other and in any order of destinations
//! (`udprelay.Server.packetReadLoop`). The first mark may be in one batch with the datagram, and be
//! written before what came of that; the second is read after all of that was written.
//!
//! Both processes stay on one CPU, for two reasons: loopback keeps the order of what is sent on one
//! CPU, and Go then opens one socket for each IP version instead of several
//! (`udprelay.Server.bindSockets` takes as many as there are CPUs).

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use relay_proto::{
    DiscoPublic, Vni,
    client::{self, Handshake},
};
use rig::{bare::BareRelay, command::program, process::wait_until};

use super::{
    place::{Kind, Places, has_ipv6},
    random_client,
    rng::Rng,
    subject::{Arrival, LegState, Reaction, Subject},
};

/// Longest wait for a mark. One is lost only when the relay hangs or has ended.
const PATIENCE: Duration = Duration::from_secs(20);
/// Tries to find a port that is free until Go takes it.
const PORTS: usize = 5;

/// The running relay.
pub struct Reference {
    relay: BareRelay,
    port: u16,
    places: Rc<Places>,
    marks: Marks,
}

/// A session with one leg for each IP version, through which marks go.
struct Marks {
    vni: Vni,
    sockets: [UdpSocket; 2],
    sent: u64,
    first: (u32, u64),
}

impl Reference {
    /// VNI and LamportID of the first session it gave out.
    pub const fn first_session(&self) -> (u32, u64) {
        self.marks.first
    }

    /// Starts the relay and opens the session for marks.
    pub fn start(go: &Path, places: Rc<Places>, rng: &mut Rng) -> Result<Self> {
        let (mut relay, port) = start(go, &places)?;
        let marks = Marks::open(&mut relay, port, rng).context("failed to bind with Go's relay")?;
        Ok(Self {
            relay,
            port,
            places,
            marks,
        })
    }

    fn place(&self, address: &str) -> Result<Option<usize>> {
        if address == "-" {
            return Ok(None);
        }
        let address: SocketAddr = address.parse()?;
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let place = self.places.find(address);
        ensure!(place.is_some(), "no client has the address {address}");
        Ok(place)
    }
}

impl Subject for Reference {
    fn node(&self) -> DiscoPublic {
        DiscoPublic(self.relay.node)
    }

    fn allocate(&mut self, _node: u8, request: &[u8]) -> Result<Reaction<Option<Vec<u8>>>> {
        let answer = self.relay.ask(&[request.to_vec()])?.remove(0);
        Ok(Reaction {
            sent: (!answer.is_empty()).then_some(answer),
            reason: None,
        })
    }

    fn deliver(&mut self, from: usize, datagram: &[u8]) -> Result<Reaction<Vec<Arrival>>> {
        let from = self.places.get(from);
        from.send(datagram, relay_address(from.real.is_ipv6(), self.port))?;
        self.marks.pass(from.real.is_ipv6(), self.port)?;
        Ok(Reaction {
            sent: self.places.drain()?,
            reason: None,
        })
    }

    fn legs(&mut self, vni: Vni) -> Result<Option<[LegState; 2]>> {
        let line = self.relay.say(&format!("session {vni}"))?;
        if line.is_empty() {
            return Ok(None);
        }
        let words: Vec<_> = line.split(' ').collect();
        let [a, packets_a, bytes_a, b, packets_b, bytes_b] = words[..] else {
            bail!("Go's relay said {line:?} of a session");
        };
        let leg = |address, packets: &str, bytes: &str| -> Result<_> {
            Ok(LegState {
                place: self.place(address)?,
                packets: packets.parse()?,
                bytes: bytes.parse()?,
            })
        };
        Ok(Some([
            leg(a, packets_a, bytes_a)?,
            leg(b, packets_b, bytes_b)?,
        ]))
    }
}

impl Marks {
    fn open(relay: &mut BareRelay, port: u16, rng: &mut Rng) -> Result<Self> {
        let second = if has_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        let sockets = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind(second)?];
        for socket in &sockets {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        let clients = [random_client(rng), random_client(rng)];
        let node = clients[0].channel(DiscoPublic(relay.node));
        let request = node.request(rng.bytes(), [clients[0].key, clients[1].key], 1);
        let answer = relay.ask(&[request])?.remove(0);
        let endpoint = node.allocation(1, &answer);
        let endpoint = endpoint.context("it gives out no session")?;
        let vni = Vni::new(endpoint.vni).context("it gave out VNI 0")?;
        for (own, other) in [(0, 1), (1, 0)] {
            let (socket, own) = (&sockets[own], &clients[own]);
            let to = relay_address(socket.local_addr()?.is_ipv6(), port);
            let server = own.channel(endpoint.server);
            let handshake = Handshake::new(vni, 1, clients[other].key);
            socket.send_to(&handshake.bind(&server, rng.bytes()), to)?;
            let mut buffer = [0; 512];
            let len = socket.recv(&mut buffer)?;
            let answer = handshake.answer(&server, rng.bytes(), &buffer[..len]);
            socket.send_to(&answer.context("it sent no challenge")?, to)?;
        }
        // Each answer went to another thread of Go's.
        let bound = || match relay.say(&format!("session {vni}"))?.contains('-') {
            true => bail!("it did not bind the answers"),
            false => Ok(()),
        };
        wait_until(PATIENCE, || true, bound)?;
        Ok(Self {
            vni,
            sockets,
            sent: 0,
            first: (endpoint.vni, endpoint.lamport),
        })
    }

    /// Returns once everything that was sent before to this IP version's socket, and what came of
    /// it, has arrived.
    fn pass(&mut self, ipv6: bool, port: u16) -> Result<()> {
        let from = usize::from(ipv6);
        let to = relay_address(self.sockets[from].local_addr()?.is_ipv6(), port);
        for _ in 0..2 {
            self.sent += 1;
            let mark = client::data(self.vni, &self.sent.to_be_bytes());
            self.sockets[from].send_to(&mark, to)?;
            let mut buffer = [0; 64];
            let len = self.sockets[1 - from]
                .recv(&mut buffer)
                .context("Go's relay passes no mark")?;
            ensure!(buffer[..len] == mark, "Go's relay passed another mark");
        }
        Ok(())
    }
}

/// Starts the program on a free port.
fn start(go: &Path, places: &Places) -> Result<(BareRelay, u16)> {
    let own = places.of(Kind::Own);
    let own: Vec<_> = own
        .iter()
        .map(|at| places.get(*at).real.to_string())
        .collect();
    let mut result = Err(anyhow::anyhow!("no port is free"));
    for _ in 0..PORTS {
        let Some(port) = free_port()? else { continue };
        let mut command = program(go);
        command
            .arg(format!("--port={port}"))
            .arg(format!("--addresses={}", own.join(",")))
            .env("GOMAXPROCS", "1");
        result = BareRelay::start(&mut command).map(|relay| (relay, port));
        if result.is_ok() {
            break;
        }
    }
    result.context("failed to start Go's relay")
}

/// A port that is free with both IP versions.
fn free_port() -> Result<Option<u16>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = socket.local_addr()?.port();
    let free = !has_ipv6() || UdpSocket::bind((Ipv6Addr::LOCALHOST, port)).is_ok();
    Ok(free.then_some(port))
}

fn relay_address(ipv6: bool, port: u16) -> SocketAddr {
    if ipv6 {
        (Ipv6Addr::LOCALHOST, port).into()
    } else {
        (Ipv4Addr::LOCALHOST, port).into()
    }
}
