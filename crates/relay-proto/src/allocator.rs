//! The allocator: it opens allocation requests, checks the sender, and seals the answers. It knows no
//! session, so one allocator serves any number of cores.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::{Config, Keys, Peer},
    crypto::{
        key::{DiscoPublic, NodeKey, Pair},
        key_cache::SharedKeyCache,
    },
    limits::requests::Requests,
    session::shard::{Shard, ShardKey},
    time::{Timestamp, nanoseconds},
    verdict::DropReason,
    wire::{
        disco::{Endpoint, Frame, Generation, Message, NONCE_LEN, seal},
        geneve::Vni,
    },
};

/// The clients, in each of two generations, whose requests cost one X25519 only. A client asks for
/// all of its pairs within a short time, once a minute.
const CACHED_CLIENTS: usize = (1 << 11) / 8 * 7;

/// An allocation request that passed every check that needs no session.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub(crate) pair: Pair,
    pub(crate) shard: Shard,
    pub(crate) owner: NodeKey,
    sender: DiscoPublic,
    generation: Generation,
    at: Timestamp,
}

impl Request {
    /// The time at which the request came.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// The node that has asked.
    pub const fn owner(&self) -> NodeKey {
        self.owner
    }

    /// The shard of the pair: the request belongs to the core that serves it.
    pub const fn shard(&self) -> Shard {
        self.shard
    }
}

/// A session that a core allocated for a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// The VNI of the session.
    pub vni: Vni,
    /// The session's place in the order of allocations.
    pub lamport: u64,
}

/// The part of a relay that opens allocation requests and seals their answers.
pub struct Allocator {
    server: DiscoPublic,
    shard_key: ShardKey,
    requests: Requests,
    shared_keys: SharedKeyCache,
    lifetimes: [Duration; 2],
    addresses: Vec<SocketAddr>,
    accepting: bool,
}

impl Allocator {
    /// An allocator that refuses all requests until it has an address.
    pub fn new(config: &Config, keys: &Keys) -> Self {
        Self {
            server: keys.server.public(),
            shard_key: ShardKey::of(&keys.server),
            requests: Requests::new(config),
            shared_keys: SharedKeyCache::new(&keys.node, CACHED_CLIENTS),
            lifetimes: [config.bind_lifetime, config.steady_lifetime],
            addresses: Vec::new(),
            accepting: true,
        }
    }

    /// Replaces the addresses that answers advertise, in order of preference.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses = addresses;
    }

    /// Sets whether requests are answered.
    pub const fn set_accepting(&mut self, accepting: bool) {
        self.accepting = accepting;
    }

    /// Opens a packet that DERP delivered; `from` is the network map's entry of its sender.
    ///
    /// The checks have the order of docs/wire.md: cheap ones come before the box is opened.
    ///
    /// # Errors
    /// The reason why the packet gets no answer.
    pub fn open(
        &mut self,
        from: Option<&Peer>,
        packet: &[u8],
        now: Timestamp,
    ) -> Result<Request, DropReason> {
        let peer = from.ok_or(DropReason::UnknownPeer)?;
        let frame = Frame::parse(packet).ok_or(DropReason::NotDisco)?;
        if peer.disco != Some(frame.sender) {
            return Err(DropReason::DiscoMismatch);
        }
        // Before the box is opened, which may cost an X25519. After the keys are compared: only packets
        // that DERP attributes to the node and that name its disco key count, so nobody else can use up
        // its rate.
        self.requests.admit(peer.node_key, now)?;
        let shared = self.shared_keys.shared_with(frame.sender, now);
        let message = frame.open(shared).ok_or(DropReason::BadSeal)?;
        let Message::AllocateRequest {
            clients: [a, b],
            generation,
        } = message
        else {
            return Err(DropReason::UnexpectedMessage);
        };
        let pair = Pair::new(a, b);
        // With one key twice, every bind would be for leg A, and leg B could never be bound.
        if a == b || pair.side_of(frame.sender).is_none() {
            return Err(DropReason::NotAParty);
        }
        if !peer.may_relay || peer.unsigned_peer_api_only {
            return Err(DropReason::NoGrant);
        }
        // Go compares the server's key only (`udprelay.Server.AllocateEndpoint`). The node's own key is
        // no client either: a relay never binds.
        if [self.server, self.shared_keys.public()]
            .iter()
            .any(|own| pair.side_of(*own).is_some())
        {
            return Err(DropReason::OwnKey);
        }
        // Clients cannot decode a response without an address (`disco.UDPRelayEndpoint.decode`), and
        // would learn no more from it than from silence.
        if self.addresses.is_empty() {
            return Err(DropReason::NoAddress);
        }
        if !self.accepting {
            return Err(DropReason::NotAccepting);
        }
        Ok(Request {
            shard: self.shard_key.shard(&pair),
            pair,
            owner: peer.node_key,
            sender: frame.sender,
            generation,
            at: now,
        })
    }

    /// Seals the answer to `request`; `nonce` must be random.
    pub fn answer(
        &mut self,
        request: &Request,
        allocation: Allocation,
        nonce: [u8; NONCE_LEN],
    ) -> Vec<u8> {
        let [bind, steady] = self.lifetimes;
        let endpoint = Endpoint {
            server: self.server,
            clients: request.pair,
            lamport: allocation.lamport,
            vni: allocation.vni.number(),
            bind_lifetime_ns: nanoseconds(bind),
            steady_lifetime_ns: nanoseconds(steady),
            // Also for a session that exists, as in Go (`AllocateEndpoint`): clients ask again when
            // they have lost the path, and may need an address that is new since then.
            addresses: self.addresses.clone(),
        };
        let response = Message::AllocateResponse {
            generation: request.generation,
            endpoint,
        };
        let public = self.shared_keys.public();
        let shared = self.shared_keys.shared_with(request.sender, request.at);
        seal(shared, public, nonce, &response.marshal())
    }

    /// As [`Core::poll_forget`](crate::Core::poll_forget).
    #[must_use]
    pub fn poll_forget(&self) -> Option<Timestamp> {
        let due = [self.shared_keys.poll_forget(), self.requests.poll_forget()];
        due.into_iter().flatten().min()
    }

    /// As [`Core::forget`](crate::Core::forget).
    pub fn forget(&mut self, now: Timestamp) -> bool {
        // A short-circuiting `||` would leave out the requests.
        self.shared_keys.forget(now) | self.requests.forget(now)
    }
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator").finish_non_exhaustive()
    }
}
