//! Two clients without sockets: enough of them to get a session and to bind it.

use std::net::SocketAddr;

use crypto_box::{PublicKey, SalsaBox, SecretKey};
use relay_proto::{
    DiscoPublic, DiscoSecret, Keys, NodeKey, Peer, Vni,
    disco::{BindCommon, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
};

const NODE: [u8; 32] = [0x11; 32];
const SERVER: [u8; 32] = [0x22; 32];

/// The relay's keys.
pub(super) fn keys() -> Keys {
    Keys {
        node: DiscoSecret::from_bytes(NODE),
        server: DiscoSecret::from_bytes(SERVER),
    }
}

/// A client with one address.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) key: DiscoPublic,
    secret: [u8; 32],
    number: u8,
}

impl Client {
    pub(super) fn new(number: u8) -> Self {
        let mut secret = [0x40; 32];
        secret[1] = number;
        Self {
            key: DiscoPublic(SecretKey::from(secret).public_key().to_bytes()),
            secret,
            number,
        }
    }

    pub(super) fn peer(&self) -> Peer {
        Peer {
            node_key: NodeKey([self.number; 32]),
            disco: Some(self.key),
            may_relay: true,
            unsigned_peer_api_only: false,
        }
    }

    /// Asks for a session with `other`.
    pub(super) fn request(&self, other: &Self) -> Vec<u8> {
        let clients = [self.key, other.key];
        let generation = Generation(1);
        let request = Message::AllocateRequest {
            clients,
            generation,
        };
        self.seal(keys().node.public(), &request)
    }

    /// The VNI in the relay's response.
    pub(super) fn vni(&self, response: &[u8]) -> Vni {
        match self.open(keys().node.public(), response) {
            Message::AllocateResponse { endpoint, .. } => Vni::new(endpoint.vni).unwrap(),
            other => panic!("no response: {other:?}"),
        }
    }

    /// The first datagram of a handshake.
    pub(super) fn bind(&self, vni: Vni, generation: u32, other: &Self) -> Vec<u8> {
        self.control(
            vni,
            &Message::Bind(BindCommon::first(vni.number(), generation, other.key)),
        )
    }

    /// The last one, for the relay's reply to the first.
    pub(super) fn answer(&self, vni: Vni, challenge: &[u8]) -> Vec<u8> {
        let Message::Challenge(common) =
            self.open(keys().server.public(), &challenge[HEADER_LEN..])
        else {
            panic!("no challenge");
        };
        self.control(vni, &Message::Answer(common))
    }

    fn control(&self, vni: Vni, message: &Message) -> Vec<u8> {
        let header = Header {
            control: true,
            protocol: PROTOCOL_DISCO,
            vni,
        };
        [
            &header.encode()[..],
            &self.seal(keys().server.public(), message),
        ]
        .concat()
    }

    fn seal(&self, to: DiscoPublic, message: &Message) -> Vec<u8> {
        seal(&self.shared(to), self.key, [9; 24], &message.marshal())
    }

    fn open(&self, from: DiscoPublic, frame: &[u8]) -> Message {
        let frame = Frame::parse(frame).unwrap();
        frame
            .open(&self.shared(from))
            .expect("sealed for this client")
    }

    fn shared(&self, other: DiscoPublic) -> SalsaBox {
        SalsaBox::new(&PublicKey::from(other.0), &SecretKey::from(self.secret))
    }
}

/// A data datagram.
pub(super) fn data(vni: Vni, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        control: false,
        protocol: PROTOCOL_WIREGUARD,
        vni,
    };
    [&header.encode()[..], payload].concat()
}

/// A leg's address.
pub(super) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
