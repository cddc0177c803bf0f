//! The allocator: opens allocation requests, checks who asks, and seals the answers. It knows no
//! session, so one allocator serves any number of cores.

use std::{net::SocketAddr, time::Duration};

use crate::{
    config::{Config, Keys, Peer},
    crypto::key::{DiscoPublic, DiscoSecret, NodeKey, Pair},
    crypto::key_cache::SharedKeyCache,
    limits::requests::Requests,
    session::shard::{Shard, ShardKey},
    time::{Timestamp, nanoseconds},
    verdict::DropReason,
    wire::disco::{Endpoint, Frame, Generation, Message, NONCE_LEN, seal},
    wire::geneve::Vni,
};

/// Clients, in each of two generations, whose requests need no other X25519. A client asks for all
/// of its pairs within a short time, once a minute.
const MOST_SHARED_KEYS: usize = (1 << 11) / 8 * 7;

/// A request that passed every check that needs no session.
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
    /// When it came.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Where the pair's session belongs: to the core that has this shard.
    pub const fn shard(&self) -> Shard {
        self.shard
    }
}

/// What a core gives out for a [`Request`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// Number of the session.
    pub vni: Vni,
    /// Order of allocation.
    pub lamport: u64,
}

/// Opens requests and seals answers.
pub struct Allocator {
    server: DiscoPublic,
    shards: ShardKey,
    requests: Requests,
    shared_keys: SharedKeyCache,
    lifetimes: [Duration; 2],
    addresses: Vec<SocketAddr>,
    accepting: bool,
}

impl Allocator {
    /// An allocator that gives out nothing until it has an address.
    pub fn new(config: &Config, keys: &Keys) -> Self {
        Self {
            server: keys.server.public(),
            shards: keys.server.shard_key(),
            requests: Requests::new(config),
            shared_keys: SharedKeyCache::new(keys.node.clone(), MOST_SHARED_KEYS),
            lifetimes: [config.bind_lifetime, config.steady_lifetime],
            addresses: Vec::new(),
            accepting: true,
        }
    }

    pub(crate) const fn secret(&self) -> &DiscoSecret {
        self.shared_keys.secret()
    }

    /// Replaces the addresses that answers advertise, in order of preference.
    pub fn set_addresses(&mut self, addresses: Vec<SocketAddr>) {
        self.addresses = addresses;
    }

    /// Whether requests are answered.
    pub const fn set_accepting(&mut self, accepting: bool) {
        self.accepting = accepting;
    }

    /// Opens a packet that DERP delivered; `from` is what the network map knows of its sender. The
    /// checks stand in the order of docs/wire.md; cheap ones before the box is opened.
    ///
    /// # Errors
    /// The reason why it gets no answer.
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
        self.requests.take(peer.node_key, now)?;
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
        if a == b || pair.side_of(frame.sender).is_none() {
            return Err(DropReason::NotAParty);
        }
        if !peer.may_relay || peer.unsigned_peer_api_only {
            return Err(DropReason::NoGrant);
        }
        if [self.server, self.shared_keys.public()]
            .iter()
            .any(|own| pair.side_of(*own).is_some())
        {
            return Err(DropReason::OwnKey);
        }
        if self.addresses.is_empty() {
            return Err(DropReason::NoAddress);
        }
        if !self.accepting {
            return Err(DropReason::NotAccepting);
        }
        Ok(Request {
            shard: self.shards.shard(&pair),
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

    /// As [`Relay::poll_forget`](crate::Relay::poll_forget).
    #[must_use]
    pub fn poll_forget(&self) -> Option<Timestamp> {
        let own = [self.shared_keys.poll_forget(), self.requests.poll_forget()];
        own.into_iter().flatten().min()
    }

    /// As [`Relay::forget`](crate::Relay::forget).
    pub fn forget(&mut self, now: Timestamp) -> bool {
        // Both have their turn.
        self.shared_keys.forget(now) | self.requests.forget(now)
    }
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator").finish_non_exhaustive()
    }
}
