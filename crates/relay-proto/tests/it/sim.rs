//! A relay and its clients in virtual time, without a network: the harness of all tests here.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use relay_proto::{
    ClockedTat, Config, DiscoPublic, DiscoSecret, DropReason, Event, Keys, NodeKey, Peer,
    REPLY_LEN, Relay, SessionInfo, SharedLimits, SharedTat, SharedVnis, State, Timestamp, Verdict,
    Vni,
    client::{self, Channel, Handshake},
    disco::{BindCommon, Endpoint, Message},
};

pub(crate) use relay_proto::client::data;

const NODE_SECRET: [u8; 32] = [0x11; 32];
const SERVER_SECRET: [u8; 32] = [0x22; 32];
const NONCE: [u8; 24] = [9; 24];
/// The generation of allocation requests.
const REQUEST: u32 = 77;

/// The key that authenticates saved states.
pub(crate) const STATE_KEY: [u8; 32] = [0x55; 32];

/// The outcome of a datagram, with the reply's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Forward(SocketAddr),
    Reply(Vec<u8>),
    Consumed,
    Drop(DropReason),
}

/// A client at one address that knows the relay's keys.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) node_key: NodeKey,
    pub(crate) address: SocketAddr,
    pub(crate) key: DiscoPublic,
    client: client::Client,
    node: Channel,
    server: Channel,
}

impl Client {
    /// The client number `n`, at 10.0.0.`n`.
    pub(crate) fn new(n: u8) -> Self {
        let client = client::Client::numbered(n.into());
        Self {
            node_key: client.node_key,
            address: Self::home(n),
            key: client.key,
            node: client.channel(node_key()),
            server: client.channel(server_key()),
            client,
        }
    }

    /// The address of the client number `n`.
    pub(crate) fn home(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 41641))
    }

    /// The client's entry in the network map when policy lets it use the relay.
    pub(crate) fn peer(&self) -> Peer {
        self.client.peer()
    }

    /// A disco frame for `recipient`.
    pub(crate) fn seal(&self, recipient: DiscoPublic, plaintext: &[u8]) -> Vec<u8> {
        self.client.channel(recipient).seal(NONCE, plaintext)
    }

    /// An allocation request for the session with `other`.
    pub(crate) fn request(&self, other: DiscoPublic) -> Vec<u8> {
        self.node.request(NONCE, [self.key, other], REQUEST)
    }

    /// The allocation in the response to [`Client::request`].
    pub(crate) fn allocation(&self, response: &[u8]) -> Endpoint {
        let endpoint = self.node.allocation(REQUEST, response);
        endpoint.expect("the relay answers requests with allocations")
    }

    /// A control datagram for the relay.
    pub(crate) fn control(&self, vni: Vni, message: &Message) -> Vec<u8> {
        self.server.control(NONCE, vni, message)
    }

    /// The first datagram of a handshake.
    pub(crate) fn bind(&self, vni: Vni, generation: u32, other: &Self) -> Vec<u8> {
        Handshake::new(vni, generation, other.key).bind(&self.server, NONCE)
    }

    /// The last datagram of a handshake, for the relay's reply to the first.
    pub(crate) fn answer(&self, vni: Vni, challenge: &[u8]) -> Vec<u8> {
        self.control(vni, &Message::Answer(self.read_challenge(challenge)))
    }

    /// The message in the relay's reply to a bind.
    pub(crate) fn read_challenge(&self, reply: &[u8]) -> BindCommon {
        let challenge = self.server.challenge(reply);
        challenge.expect("the relay replies with a challenge").1
    }
}

/// The shared part of a bind message, without challenge.
pub(crate) fn common(vni: Vni, generation: u32, remote: DiscoPublic) -> BindCommon {
    BindCommon::first(vni.number(), generation, remote)
}

/// The relay's disco key in the network map.
pub(crate) fn node_key() -> DiscoPublic {
    DiscoSecret::from_bytes(NODE_SECRET).public()
}

/// The relay's disco key in the bind handshake.
pub(crate) fn server_key() -> DiscoPublic {
    DiscoSecret::from_bytes(SERVER_SECRET).public()
}

/// The address that a literal names.
pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().expect("a literal")
}

pub(crate) const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Words of a VNI filter, as another data path has them.
#[derive(Debug)]
pub(crate) struct FilterWords(pub(crate) Vec<AtomicU64>);

impl SharedTat for FilterWords {
    fn shared_tat(&self) -> Option<ClockedTat<'_>> {
        None
    }
}

impl SharedVnis for FilterWords {
    fn shared_vnis(&self) -> Option<&[AtomicU64]> {
        Some(&self.0)
    }
}

type OtherPath = Option<Arc<FilterWords>>;

/// A relay with a clock.
pub(crate) struct Sim {
    pub(crate) relay: Relay<OtherPath>,
    pub(crate) now: Timestamp,
    /// The limits of the present relay.
    pub(crate) limits: Arc<SharedLimits<OtherPath>>,
    /// The configuration of the next relay, after a restart.
    pub(crate) config: Config,
    path: OtherPath,
    /// The seed of the present relay: a seed is never used twice.
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

    /// A relay, and relays after it, with another data path that has these words.
    pub(crate) fn with_filter(words: Arc<FilterWords>) -> Self {
        let now = Timestamp::from_start(seconds(1_000));
        Self::make(Config::default(), 100, now, Some(words))
    }

    fn make(config: Config, lamport: u64, now: Timestamp, path: OtherPath) -> Self {
        let keys = Keys {
            node: DiscoSecret::from_bytes(NODE_SECRET),
            server: DiscoSecret::from_bytes(SERVER_SECRET),
        };
        let seed = 0x33;
        let limits = SharedLimits::with_path(&config, lamport, path.clone());
        let limits = Arc::new(limits);
        let mut relay = Relay::with_limits(config.clone(), keys, [seed; 32], limits.clone(), now);
        relay.set_addresses(vec![at("203.0.113.10:40000"), at("[2001:db8::10]:40000")]);
        Self {
            relay,
            limits,
            now,
            config,
            path,
            seed,
        }
    }

    /// Another process takes over, `away` later.
    pub(crate) fn restart(&mut self, away: Duration) {
        let bytes = self.relay.export(self.now).encode(&STATE_KEY);
        let mut state = State::decode(&bytes, &STATE_KEY).expect("it was just encoded");
        state.age(away);
        self.now = self.now + away;
        let (config, keys) = (self.config.clone(), state.keys.clone());
        self.seed = self.seed.wrapping_add(1);
        let limits = SharedLimits::with_path(&config, state.next_lamport, self.path.clone());
        self.limits = Arc::new(limits);
        let limits = self.limits.clone();
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
        Ok(client.allocation(&response))
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
