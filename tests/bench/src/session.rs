//! Clients that allocate and bind as Tailscale's do, and the sessions they have.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use relay_proto::{
    DiscoPublic, DiscoSecret, NodeKey, Vni,
    client::{self, Channel, Handshake},
    geneve::{HEADER_LEN, Header},
};
use rig::signals;

use super::{
    server::Server,
    system,
    topology::{Family, Link, Side},
};

/// Sessions that are bound at the same time.
const CHUNK: usize = 200;
/// Longest wait for a datagram before it is sent again, and how often it is.
const PATIENCE: Duration = Duration::from_millis(400);
const ATTEMPTS: u32 = 8;

/// The generation of allocation requests.
const REQUEST: u32 = 1;
/// These keys live for one measurement and protect nothing.
const NONCE: [u8; 24] = [9; 24];

/// A client with one socket.
#[derive(Debug)]
pub struct Client {
    /// The socket of the client.
    pub socket: UdpSocket,
    /// The address of the relay, as the client reaches it.
    pub relay: SocketAddr,
    /// The disco key of the client.
    pub key: DiscoPublic,
    client: client::Client,
    /// The channel to the relay's key for requests.
    node: Channel,
    /// The channel to the relay's key for handshakes, once an allocation has named it.
    server: Option<Channel>,
}

/// A session that both clients have bound.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The VNI of the session.
    pub vni: Vni,
    /// Indices of its clients; the first sends.
    pub clients: [usize; 2],
}

/// Makes clients; no two have the same key.
#[derive(Debug)]
pub struct ClientFactory {
    next: u64,
}

impl ClientFactory {
    /// No two processes make the same clients.
    pub fn by_clock() -> Self {
        let seed = system::wall_clock().map_or(0, |now| now.as_nanos() as u64);
        Self { next: seed }
    }

    /// Clients on the given sides of a relay's path.
    pub fn make(&mut self, server: &Server, sides: &[(Side, Family)]) -> Result<Vec<Client>> {
        let link = Link::of(server.implementation);
        let mut clients = Vec::with_capacity(sides.len());
        // Entering a namespace takes a thread: once for each side, not for each client.
        for side in [Side::A, Side::B] {
            let made = system::inside(side.namespace(), || {
                sides
                    .iter()
                    .enumerate()
                    .filter(|(_, (of, _))| *of == side)
                    .map(|(index, (_, family))| {
                        let to = SocketAddr::new(link.relay(side, *family), server.port);
                        let socket = socket(SocketAddr::new(link.client(side, *family), 0))?;
                        Ok((index, socket, to))
                    })
                    .collect::<Result<Vec<_>>>()
            })?;
            clients.extend(made);
        }
        clients.sort_by_key(|(index, ..)| *index);
        Ok(clients
            .into_iter()
            .map(|(_, socket, relay)| self.client(socket, relay, DiscoPublic(server.relay.node)))
            .collect())
    }

    fn client(&mut self, socket: UdpSocket, relay: SocketAddr, node: DiscoPublic) -> Client {
        self.next += 1;
        let mut secret = [0x5a; 32];
        secret[..8].copy_from_slice(&self.next.to_be_bytes());
        // The relay learns the node from whoever passes the request on.
        let client = client::Client::new(DiscoSecret::from_bytes(secret), NodeKey([0; 32]));
        Client {
            socket,
            relay,
            key: client.key,
            node: client.channel(node),
            client,
            server: None,
        }
    }
}

/// A bound socket whose buffers hold what a window of load is.
pub fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("failed to bind {address}"))?;
    system::enlarge_buffers(&socket, 4 << 20)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

impl Client {
    /// A datagram of a session, `len` bytes with its header.
    pub fn datagram(vni: Vni, len: usize) -> Vec<u8> {
        client::data(vni, &vec![0xa5; len.saturating_sub(HEADER_LEN)])
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        self.socket.send_to(datagram, self.relay)?;
        Ok(())
    }

    /// A request for a session with `other`.
    pub fn request(&self, other: DiscoPublic) -> Vec<u8> {
        self.node.request(NONCE, [self.key, other], REQUEST)
    }

    /// The first datagram of a handshake.
    pub fn bind(&self, vni: Vni, generation: u32, other: DiscoPublic) -> Result<Vec<u8>> {
        Ok(Handshake::new(vni, generation, other).bind(self.server()?, NONCE))
    }

    fn server(&self) -> Result<&Channel> {
        self.server
            .as_ref()
            .context("a client binds without an allocation")
    }
}

/// Allocates and binds a session for every pair of clients; returns once data has passed each.
pub fn open(
    server: &mut Server,
    clients: &mut [Client],
    pairs: &[[usize; 2]],
) -> Result<Vec<Session>> {
    let mut sessions = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(CHUNK) {
        signals::check()?;
        let allocated = allocate(server, clients, chunk)?;
        let mut unproven = allocated.clone();
        for generation in 1..=ATTEMPTS {
            bind(clients, &unproven, generation)?;
            unproven = unproven_of(clients, &unproven)?;
            if unproven.is_empty() {
                break;
            }
        }
        ensure!(
            unproven.is_empty(),
            "{} of {} sessions of the {} relay pass no data",
            unproven.len(),
            chunk.len(),
            server.implementation
        );
        sessions.extend(allocated);
    }
    Ok(sessions)
}

fn allocate(
    server: &mut Server,
    clients: &mut [Client],
    pairs: &[[usize; 2]],
) -> Result<Vec<Session>> {
    let requests: Vec<_> = pairs
        .iter()
        .map(|[a, b]| clients[*a].request(clients[*b].key))
        .collect();
    let answers = server.relay.ask(&requests)?;
    let mut sessions = Vec::with_capacity(pairs.len());
    for (pair, answer) in pairs.iter().zip(answers) {
        ensure!(!answer.is_empty(), "a relay refused an allocation");
        let endpoint = clients[pair[0]].node.allocation(REQUEST, &answer);
        let endpoint = endpoint.context("a relay answered an allocation with something else")?;
        for client in pair {
            let Client { client, server, .. } = &mut clients[*client];
            server.get_or_insert_with(|| client.channel(endpoint.server));
        }
        sessions.push(Session {
            vni: Vni::new(endpoint.vni).context("a relay gave out VNI 0")?,
            clients: *pair,
        });
    }
    Ok(sessions)
}

/// Does both handshakes of each session. A lost datagram shows in [`unproven_of`].
fn bind(clients: &[Client], sessions: &[Session], generation: u32) -> Result<()> {
    let mut waiting: HashMap<(usize, Vni), Handshake> = HashMap::new();
    for session in sessions {
        let [a, b] = session.clients;
        for (own, other) in [(a, b), (b, a)] {
            let handshake = Handshake::new(session.vni, generation, clients[other].key);
            let client = &clients[own];
            client.send(&handshake.bind(client.server()?, NONCE))?;
            waiting.insert((own, session.vni), handshake);
        }
    }
    for session in sessions {
        for client in session.clients {
            if waiting.contains_key(&(client, session.vni)) {
                answer(clients, client, session.vni, &mut waiting)?;
            }
        }
    }
    Ok(())
}

/// Answers challenges of a client until the one of `vni` was answered, or none comes.
fn answer(
    clients: &[Client],
    client: usize,
    vni: Vni,
    waiting: &mut HashMap<(usize, Vni), Handshake>,
) -> Result<()> {
    let own = &clients[client];
    let server = own.server()?;
    let mut buffer = [0; 2048];
    while waiting.contains_key(&(client, vni)) {
        let Some(len) = receive(&own.socket, &mut buffer)? else {
            return Ok(());
        };
        let datagram = &buffer[..len];
        let Some(header) = Header::decode(datagram) else {
            continue;
        };
        let handshake = waiting.get(&(client, header.vni));
        let answer = handshake.and_then(|handshake| handshake.answer(server, NONCE, datagram));
        if let Some(answer) = answer {
            own.send(&answer)?;
            waiting.remove(&(client, header.vni));
        }
    }
    Ok(())
}

/// The sessions that do not pass data in both directions.
fn unproven_of(clients: &[Client], sessions: &[Session]) -> Result<Vec<Session>> {
    for (from, to) in [(0, 1), (1, 0)] {
        for session in sessions {
            let datagram = Client::datagram(session.vni, 64);
            clients[session.clients[from]].send(&datagram)?;
        }
        // A client hears its sessions in any order.
        let mut heard = HashSet::new();
        let mut unproven = Vec::new();
        for session in sessions {
            let client = session.clients[to];
            // Whoever has waited for one in vain has waited for all.
            let socket = &clients[client].socket;
            socket.set_nonblocking(!unproven.is_empty())?;
            if !hears(socket, client, session.vni, &mut heard)? {
                unproven.push(*session);
            }
            socket.set_nonblocking(false)?;
        }
        if !unproven.is_empty() {
            return Ok(unproven);
        }
    }
    Ok(Vec::new())
}

fn hears(
    socket: &UdpSocket,
    client: usize,
    vni: Vni,
    heard: &mut HashSet<(usize, Vni)>,
) -> Result<bool> {
    let mut buffer = [0; 2048];
    while !heard.contains(&(client, vni)) {
        let Some(len) = receive(socket, &mut buffer)? else {
            return Ok(false);
        };
        if let Some(header) = Header::decode(&buffer[..len]).filter(|header| !header.control) {
            heard.insert((client, header.vni));
        }
    }
    Ok(true)
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<usize>> {
    match socket.recv(buffer) {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(error).context("failed to receive"),
    }
}
