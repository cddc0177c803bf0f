//! Clients that allocate and bind as Tailscale's do, and the sessions they have.

use std::{
    collections::{HashMap, HashSet},
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    DiscoPublic, DiscoSecret, Vni,
    disco::{BindCommon, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
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

/// A client with one socket.
#[derive(Debug)]
pub struct Client {
    /// The socket of the client.
    pub socket: UdpSocket,
    /// The address of the relay, as the client reaches it.
    pub relay: SocketAddr,
    /// The disco key of the client.
    pub key: DiscoPublic,
    secret: [u8; 32],
    /// With the relay's key for requests, and with its key for handshakes.
    node: Shared,
    server: Option<(DiscoPublic, Shared)>,
}

struct Shared(SalsaBox);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared(..)")
    }
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
pub struct Clients {
    next: u64,
}

impl Clients {
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
        Client {
            socket,
            relay,
            secret,
            key: DiscoSecret::from_bytes(secret).public(),
            node: shared(&secret, node),
            server: None,
        }
    }
}

fn shared(secret: &[u8; 32], other: DiscoPublic) -> Shared {
    let (other, secret) = (PublicKey::from(other.0), SecretKey::from(*secret));
    Shared(SalsaBox::new(&other, &secret))
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
        let header = Header {
            control: false,
            protocol: PROTOCOL_WIREGUARD,
            vni,
        };
        let mut datagram = vec![0xa5; len.max(HEADER_LEN)];
        datagram[..HEADER_LEN].copy_from_slice(&header.encode());
        datagram
    }

    fn send(&self, datagram: &[u8]) -> Result<()> {
        self.socket.send_to(datagram, self.relay)?;
        Ok(())
    }

    fn seal(&self, Shared(shared): &Shared, message: &Message) -> Vec<u8> {
        // These keys live for one measurement and protect nothing.
        seal(shared, self.key, [9; 24], &message.marshal())
    }

    /// Asks for a session with `other`.
    pub fn request(&self, other: DiscoPublic) -> Vec<u8> {
        let request = Message::AllocateRequest {
            clients: [self.key, other],
            generation: Generation(1),
        };
        self.seal(&self.node, &request)
    }

    /// The first datagram of a handshake.
    pub fn bind(&self, vni: Vni, generation: u32, other: DiscoPublic) -> Result<Vec<u8>> {
        self.control(
            vni,
            &Message::Bind(BindCommon::first(vni.number(), generation, other)),
        )
    }

    fn control(&self, vni: Vni, message: &Message) -> Result<Vec<u8>> {
        let header = Header {
            control: true,
            protocol: PROTOCOL_DISCO,
            vni,
        };
        let (_, shared) = self.server.as_ref().context("it has an allocation")?;
        Ok([&header.encode()[..], &self.seal(shared, message)].concat())
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
        let frame = Frame::parse(&answer).context("a relay refused an allocation")?;
        let opened = frame.open(&clients[pair[0]].node.0);
        let Some(Message::AllocateResponse { endpoint, .. }) = opened else {
            bail!("a relay answered an allocation with something else");
        };
        for client in pair {
            let client = &mut clients[*client];
            if client.server.is_none() {
                let shared = shared(&client.secret, endpoint.server);
                client.server = Some((endpoint.server, shared));
            }
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
    let mut waiting: HashMap<(usize, Vni), BindCommon> = HashMap::new();
    for session in sessions {
        let [a, b] = session.clients;
        for (own, other) in [(a, b), (b, a)] {
            let other = clients[other].key;
            clients[own].send(&clients[own].bind(session.vni, generation, other)?)?;
            waiting.insert(
                (own, session.vni),
                BindCommon::first(session.vni.number(), generation, other),
            );
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
    waiting: &mut HashMap<(usize, Vni), BindCommon>,
) -> Result<()> {
    let own = &clients[client];
    let (_, Shared(shared)) = own.server.as_ref().context("it has an allocation")?;
    let mut buffer = [0; 2048];
    while waiting.contains_key(&(client, vni)) {
        let Some(len) = receive(&own.socket, &mut buffer)? else {
            return Ok(());
        };
        let Some(header) = Header::decode(&buffer[..len]).filter(|header| header.control) else {
            continue;
        };
        let frame = Frame::parse(&buffer[HEADER_LEN..len]);
        let Some(Message::Challenge(challenge)) = frame.and_then(|frame| frame.open(shared)) else {
            continue;
        };
        if let Some(common) = waiting.remove(&(client, header.vni)) {
            let answer = BindCommon {
                challenge: challenge.challenge,
                ..common
            };
            let answer = own.control(header.vni, &Message::Answer(answer))?;
            own.send(&answer)?;
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
