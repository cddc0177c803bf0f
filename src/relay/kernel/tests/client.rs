//! Clients that know the relay's keys, without sockets.

use std::net::SocketAddr;

use relay_proto::{
    DiscoSecret, Keys, Peer, Vni,
    client::{self, Channel, Handshake},
};

pub(super) use relay_proto::client::data;

const NONCE: [u8; 24] = [9; 24];
/// The generation of allocation requests.
const REQUEST: u32 = 1;

/// The relay's keys.
pub(super) fn keys() -> Keys {
    Keys {
        node: DiscoSecret::from_bytes([0x11; 32]),
        server: DiscoSecret::from_bytes([0x22; 32]),
    }
}

/// A client, its channels to the relay's keys, and its handshakes.
#[derive(Clone)]
pub(super) struct Client {
    client: client::Client,
    node: Channel,
    server: Channel,
}

impl Client {
    pub(super) fn new(number: u8) -> Self {
        let client = client::Client::numbered(number.into());
        let keys = keys();
        Self {
            node: client.channel(keys.node.public()),
            server: client.channel(keys.server.public()),
            client,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        self.client.peer()
    }

    /// A request for a session with `other`.
    pub(super) fn request(&self, other: &Self) -> Vec<u8> {
        let clients = [self.client.key, other.client.key];
        self.node.request(NONCE, clients, REQUEST)
    }

    /// The VNI in the relay's response.
    pub(super) fn vni(&self, response: &[u8]) -> Vni {
        let endpoint = self.node.allocation(REQUEST, response);
        endpoint.and_then(|e| Vni::new(e.vni)).unwrap()
    }

    /// The first datagram of a handshake.
    pub(super) fn bind(&self, vni: Vni, generation: u32, other: &Self) -> Vec<u8> {
        self.handshake(vni, generation, other)
            .bind(&self.server, NONCE)
    }

    /// The last datagram of the handshake to whose first the relay replied with `challenge`.
    pub(super) fn answer(
        &self,
        vni: Vni,
        generation: u32,
        other: &Self,
        challenge: &[u8],
    ) -> Vec<u8> {
        let handshake = self.handshake(vni, generation, other);
        handshake.answer(&self.server, NONCE, challenge).unwrap()
    }

    fn handshake(&self, vni: Vni, generation: u32, other: &Self) -> Handshake {
        Handshake::new(vni, generation, other.client.key)
    }
}

/// The address that a literal names.
pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
