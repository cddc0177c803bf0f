//! A relay and its clients without a network: what tests of single steps are made of.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    Config, DiscoPublic, DiscoSecret, DropReason, Event, Keys, NodeKey, Peer, REPLY_LEN, Relay,
    SessionInfo, SharedLimits, State, Timestamp, Verdict, Vni, VniFilter,
    disco::{BindCommon, Endpoint, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
};

const NODE_SECRET: [u8; 32] = [0x11; 32];
const SERVER_SECRET: [u8; 32] = [0x22; 32];

/// Who wrote a state.
pub(crate) const STATE_KEY: [u8; 32] = [0x55; 32];

/// What became of a datagram, with the reply's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Forward(SocketAddr),
    Reply(Vec<u8>),
    Consumed,
    Drop(DropReason),
}

/// A stock client: a tailnet node with one disco key and one address.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) node_key: NodeKey,
    pub(crate) address: SocketAddr,
    secret: [u8; 32],
    pub(crate) key: DiscoPublic,
}

impl Client {
    /// The client number `n`, at 10.0.0.`n`.
    pub(crate) fn new(n: u8) -> Self {
        let mut secret = [0x40; 32];
        secret[1] = n; // byte 0 is clamped
        Self {
            node_key: NodeKey([n; 32]),
            address: Self::home(n),
            secret,
            key: DiscoPublic(SecretKey::from(secret).public_key().to_bytes()),
        }
    }

    /// Where the client number `n` is.
    pub(crate) fn home(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 41641))
    }

    /// How the network map describes this client when policy lets it use the relay.
    pub(crate) fn peer(&self) -> Peer {
        Peer {
            node_key: self.node_key,
            disco: Some(self.key),
            may_relay: true,
            unsigned_peer_api_only: false,
        }
    }

    fn shared_with(&self, other: DiscoPublic) -> SalsaBox {
        SalsaBox::new(&PublicKey::from(other.0), &SecretKey::from(self.secret))
    }

    /// A disco frame for `recipient`.
    pub(crate) fn seal(&self, recipient: DiscoPublic, plaintext: &[u8]) -> Vec<u8> {
        seal(&self.shared_with(recipient), self.key, [9; 24], plaintext)
    }

    /// Opens a frame from the relay's key `sender`.
    pub(crate) fn open(&self, sender: DiscoPublic, frame: &[u8]) -> Message {
        let frame = Frame::parse(frame).expect("the relay sends disco frames");
        assert_eq!(frame.sender, sender);
        frame
            .open(&self.shared_with(sender))
            .expect("sealed for this client")
    }

    /// An allocation request for the session with `other`.
    pub(crate) fn request(&self, other: DiscoPublic) -> Vec<u8> {
        let clients = [self.key, other];
        let request = Message::AllocateRequest {
            clients,
            generation: Generation(77),
        };
        self.seal(node_key(), &request.marshal())
    }

    /// A control datagram for the relay.
    pub(crate) fn control(&self, vni: Vni, message: &Message) -> Vec<u8> {
        let frame = self.seal(server_key(), &message.marshal());
        [
            &Header {
                control: true,
                protocol: PROTOCOL_DISCO,
                vni,
            }
            .encode()[..],
            &frame,
        ]
        .concat()
    }

    /// The first datagram of a handshake.
    pub(crate) fn bind(&self, vni: Vni, generation: u32, other: &Self) -> Vec<u8> {
        self.control(vni, &Message::Bind(common(vni, generation, other.key)))
    }

    /// The last datagram of a handshake, for the relay's reply to the first.
    pub(crate) fn answer(&self, vni: Vni, challenge: &[u8]) -> Vec<u8> {
        self.control(vni, &Message::Answer(self.read_challenge(challenge)))
    }

    /// What stands in the relay's reply to a bind.
    pub(crate) fn read_challenge(&self, reply: &[u8]) -> BindCommon {
        let header = Header::decode(reply).expect("the relay sends Geneve headers");
        assert!(header.control && header.protocol == PROTOCOL_DISCO);
        match self.open(server_key(), &reply[HEADER_LEN..]) {
            Message::Challenge(challenge) => challenge,
            other => panic!("not a challenge: {other:?}"),
        }
    }
}

/// The shared part of a bind message, without challenge.
pub(crate) fn common(vni: Vni, generation: u32, remote: DiscoPublic) -> BindCommon {
    BindCommon::first(vni.number(), generation, remote)
}

/// A WireGuard datagram of the session `vni`.
pub(crate) fn data(vni: Vni, payload: &[u8]) -> Vec<u8> {
    [
        &Header {
            control: false,
            protocol: PROTOCOL_WIREGUARD,
            vni,
        }
        .encode()[..],
        payload,
    ]
    .concat()
}

/// The relay's disco key in the network map.
pub(crate) fn node_key() -> DiscoPublic {
    DiscoSecret::from_bytes(NODE_SECRET).public()
}

/// The relay's disco key in the bind handshake.
pub(crate) fn server_key() -> DiscoPublic {
    DiscoSecret::from_bytes(SERVER_SECRET).public()
}

/// Parses a literal.
pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().expect("a literal")
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn limits(config: &Config, first_lamport: u64, known: Option<VniFilter>) -> Arc<SharedLimits> {
    let limits = SharedLimits::new(config, first_lamport);
    Arc::new(match known {
        Some(known) => limits.with_vni_filter(known),
        None => limits,
    })
}

/// A relay with a clock.
pub(crate) struct Sim {
    pub(crate) relay: Relay,
    pub(crate) now: Timestamp,
    /// What the first relay counts with.
    pub(crate) limits: Arc<SharedLimits>,
    /// Of the next relay, after a restart.
    pub(crate) config: Config,
    known: Option<VniFilter>,
    /// Each relay's is another: a seed is never used twice.
    seed: u8,
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        Self::make(config, 100, Timestamp::from_start(seconds(1_000)), None)
    }

    /// A relay whose first allocation is number `lamport`, at that time.
    pub(crate) fn starting(lamport: u64, now: Timestamp) -> Self {
        Self::make(Config::default(), lamport, now, None)
    }

    /// A relay that tells in `known` which VNIs have a session, and relays after it.
    pub(crate) fn telling(known: VniFilter) -> Self {
        let now = Timestamp::from_start(seconds(1_000));
        Self::make(Config::default(), 100, now, Some(known))
    }

    fn make(config: Config, lamport: u64, now: Timestamp, known: Option<VniFilter>) -> Self {
        let keys = Keys {
            node: DiscoSecret::from_bytes(NODE_SECRET),
            server: DiscoSecret::from_bytes(SERVER_SECRET),
        };
        let seed = 0x33;
        let limits = limits(&config, lamport, known);
        let mut relay = Relay::with_limits(config.clone(), keys, [seed; 32], limits.clone(), now);
        relay.set_addresses(vec![at("203.0.113.10:40000"), at("[2001:db8::10]:40000")]);
        Self {
            relay,
            limits,
            now,
            config,
            known,
            seed,
        }
    }

    /// Another process takes over, `away` later.
    pub(crate) fn restart(&mut self, away: Duration) {
        let bytes = self.relay.export(self.now).encode(&STATE_KEY);
        let mut state = State::decode(&bytes, &STATE_KEY).expect("what was written");
        state.age(away);
        self.now = self.now + away;
        let (config, keys) = (self.config.clone(), state.keys.clone());
        self.seed = self.seed.wrapping_add(1);
        let limits = limits(&config, state.next_lamport, self.known);
        self.relay = Relay::with_limits(config, keys, [self.seed; 32], limits, self.now);
        self.relay
            .set_addresses(vec![at("203.0.113.10:40000"), at("[2001:db8::10]:40000")]);
        self.relay.import(&state, 0, |_| true, self.now);
    }

    /// Lets time pass; the relay is woken exactly when it asked to be.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.relay.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.relay.handle_timeout(self.now);
            let next = self.relay.poll_timeout();
            assert!(
                next.is_none_or(|next| next > self.now),
                "asks for the same wake-up again"
            );
        }
        while let Some(due) = self.relay.poll_forget().filter(|due| *due <= end) {
            self.relay.forget(due);
        }
        self.now = end;
    }

    /// A datagram arrives from `source`.
    pub(crate) fn receive(&mut self, source: SocketAddr, datagram: &[u8]) -> Outcome {
        let mut reply = [0; REPLY_LEN];
        match self
            .relay
            .handle_datagram(source, None, datagram, self.now, &mut reply)
        {
            Verdict::Forward { to, .. } => Outcome::Forward(to),
            Verdict::Reply { len } => Outcome::Reply(reply[..len].to_vec()),
            Verdict::Consumed => Outcome::Consumed,
            Verdict::Drop(reason) => Outcome::Drop(reason),
        }
    }

    /// A packet arrives over DERP from `peer`.
    pub(crate) fn derp(&mut self, peer: &Peer, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.relay.handle_derp(Some(peer), packet, self.now)
    }

    /// `client` asks for a session with `other`.
    pub(crate) fn allocate(
        &mut self,
        client: &Client,
        other: &Client,
    ) -> Result<Endpoint, DropReason> {
        let response = self.derp(&client.peer(), &client.request(other.key))?;
        match client.open(node_key(), &response) {
            Message::AllocateResponse {
                generation: Generation(77),
                endpoint,
            } => Ok(endpoint),
            other => panic!("not the response: {other:?}"),
        }
    }

    /// The VNI of a session between the two.
    pub(crate) fn vni(&mut self, client: &Client, other: &Client) -> Vni {
        Vni::new(self.allocate(client, other).expect("allowed").vni).expect("a VNI")
    }

    /// Sends a bind and returns the relay's challenge.
    pub(crate) fn challenge(
        &mut self,
        vni: Vni,
        generation: u32,
        client: &Client,
        other: &Client,
    ) -> Vec<u8> {
        match self.receive(client.address, &client.bind(vni, generation, other)) {
            Outcome::Reply(reply) => reply,
            other => panic!("no challenge: {other:?}"),
        }
    }

    /// Runs `client`'s half of the handshake.
    pub(crate) fn bind(&mut self, vni: Vni, generation: u32, client: &Client, other: &Client) {
        let challenge = self.challenge(vni, generation, client, other);
        let answer = client.answer(vni, &challenge);
        assert_eq!(self.receive(client.address, &answer), Outcome::Consumed);
    }

    /// A session that both have bound, each with generation 1.
    pub(crate) fn open(&mut self, client: &Client, other: &Client) -> Vni {
        let vni = self.vni(client, other);
        self.bind(vni, 1, client, other);
        self.bind(vni, 1, other, client);
        vni
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.relay.poll_event()).collect()
    }

    /// All sessions, by their clients' keys.
    pub(crate) fn sessions(&self) -> Vec<SessionInfo> {
        let mut sessions: Vec<_> = self.relay.sessions().collect();
        sessions.sort_by_key(|session| session.legs.map(|leg| leg.client));
        sessions
    }

    pub(crate) fn session(&self, vni: Vni) -> Option<SessionInfo> {
        self.relay.sessions().find(|session| session.vni == vni)
    }
}
