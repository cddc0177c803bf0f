//! A client of relays without IO: it seals requests and handshakes as Tailscale's clients do, and
//! opens the relay's replies.
//!
//! The relay's probe of other relays, tests and benchmarks use it; they bring sockets, time and
//! randomness.

use std::fmt;

use crate::{
    config::Peer,
    crypto::{
        agreement::SharedBox,
        key::{DiscoPublic, DiscoSecret, NodeKey},
    },
    wire::{
        disco::{BindCommon, Endpoint, Frame, Generation, Message, NONCE_LEN, seal},
        geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD, Vni},
    },
};

/// A tailnet node with one disco key.
#[derive(Debug, Clone)]
pub struct Client {
    /// The public half of the client's disco key.
    pub key: DiscoPublic,
    /// The node key by which DERP and the network map name the client.
    pub node_key: NodeKey,
    secret: DiscoSecret,
}

impl Client {
    /// A client with these keys.
    pub fn new(secret: DiscoSecret, node_key: NodeKey) -> Self {
        Self {
            key: secret.public(),
            node_key,
            secret,
        }
    }

    /// The client with this number, for tests and benchmarks: its keys protect nothing.
    pub fn numbered(number: u64) -> Self {
        let mut secret = [0x40; 32];
        // X25519 clamps bits of the first and the last byte.
        secret[1..9].copy_from_slice(&number.to_le_bytes());
        let mut node_key = [0; 32];
        node_key[..8].copy_from_slice(&number.to_be_bytes());
        Self::new(DiscoSecret::from_bytes(secret), NodeKey(node_key))
    }

    /// The client's entry in the network map of a relay that it may use.
    pub const fn peer(&self) -> Peer {
        Peer {
            node_key: self.node_key,
            disco: Some(self.key),
            may_relay: true,
            unsigned_peer_api_only: false,
        }
    }

    /// The channel to the holder of `remote`; it costs one X25519.
    pub fn channel(&self, remote: DiscoPublic) -> Channel {
        Channel {
            own: self.key,
            remote,
            shared: self.secret.shared_with(remote),
        }
    }
}

/// The sealed frames between a client and one key of a relay.
///
/// A relay has two: requests are sealed for its node key, handshakes for its server key. A nonce must
/// be unique for its pair of keys.
#[derive(Clone)]
pub struct Channel {
    own: DiscoPublic,
    remote: DiscoPublic,
    shared: SharedBox,
}

impl Channel {
    /// The channel between the holders of `secret` and `remote`.
    pub fn new(secret: &DiscoSecret, remote: DiscoPublic) -> Self {
        Self {
            own: secret.public(),
            remote,
            shared: secret.shared_with(remote),
        }
    }

    /// The channel whose frames name `sender`, as someone would forge them in that client's name.
    #[must_use]
    pub fn claiming(&self, sender: DiscoPublic) -> Self {
        Self {
            own: sender,
            ..self.clone()
        }
    }

    /// The key of the relay at the other end of the channel.
    pub const fn remote(&self) -> DiscoPublic {
        self.remote
    }

    /// A disco frame of any plaintext.
    pub fn seal(&self, nonce: [u8; NONCE_LEN], plaintext: &[u8]) -> Vec<u8> {
        seal(&self.shared, self.own, nonce, plaintext)
    }

    /// The message in a frame from the relay; `None` if the relay has not sealed it for this client.
    pub fn open(&self, frame: &[u8]) -> Option<Message> {
        let frame = Frame::parse(frame).filter(|frame| frame.sender == self.remote)?;
        frame.open(&self.shared)
    }

    /// An allocation request for a session of `clients`, to be sent over DERP.
    pub fn request(
        &self,
        nonce: [u8; NONCE_LEN],
        clients: [DiscoPublic; 2],
        generation: u32,
    ) -> Vec<u8> {
        let request = Message::AllocateRequest {
            clients,
            generation: Generation(generation),
        };
        self.seal(nonce, &request.marshal())
    }

    /// The allocation in the response to a request with this generation.
    pub fn allocation(&self, generation: u32, response: &[u8]) -> Option<Endpoint> {
        match self.open(response)? {
            Message::AllocateResponse {
                generation: Generation(echoed),
                endpoint,
            } if echoed == generation => Some(endpoint),
            _ => None,
        }
    }

    /// A control datagram with this message.
    pub fn control(&self, nonce: [u8; NONCE_LEN], vni: Vni, message: &Message) -> Vec<u8> {
        self.datagram(control_header(vni), nonce, message)
    }

    /// The VNI and the challenge in a control datagram from the relay.
    pub fn challenge(&self, datagram: &[u8]) -> Option<(Vni, BindCommon)> {
        let header = Header::decode(datagram)?;
        if !header.control || header.protocol != PROTOCOL_DISCO {
            return None;
        }
        match self.open(&datagram[HEADER_LEN..])? {
            Message::Challenge(challenge) => Some((header.vni, challenge)),
            _ => None,
        }
    }

    /// A datagram with this header and this message.
    pub fn datagram(
        &self,
        header: [u8; HEADER_LEN],
        nonce: [u8; NONCE_LEN],
        message: &Message,
    ) -> Vec<u8> {
        [&header[..], &self.seal(nonce, &message.marshal())].concat()
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("own", &self.own)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// One bind handshake of a client: bind, challenge, answer.
#[derive(Debug, Clone, Copy)]
pub struct Handshake {
    header: [u8; HEADER_LEN],
    bind: BindCommon,
}

impl Handshake {
    /// The handshake number `generation` for a session with the client `other`.
    pub const fn new(vni: Vni, generation: u32, other: DiscoPublic) -> Self {
        Self {
            header: control_header(vni),
            bind: BindCommon::first(vni.number(), generation, other),
        }
    }

    /// A handshake on VNI 0, which belongs to no session: a relay of this software answers it for
    /// other relays that probe whether they reach it. `relay` is its key, `header` the datagrams'.
    pub const fn probe(header: [u8; HEADER_LEN], generation: u32, relay: DiscoPublic) -> Self {
        Self {
            header,
            bind: BindCommon::first(0, generation, relay),
        }
    }

    /// The first datagram.
    pub fn bind(&self, server: &Channel, nonce: [u8; NONCE_LEN]) -> Vec<u8> {
        server.datagram(self.header, nonce, &Message::Bind(self.bind))
    }

    /// The challenge in `reply`; `None` if `reply` is no challenge of this handshake.
    pub fn challenge(&self, server: &Channel, reply: &[u8]) -> Option<BindCommon> {
        let frame = reply.strip_prefix(&self.header)?;
        let Message::Challenge(issued) = server.open(frame)? else {
            return None;
        };
        let echoed = BindCommon {
            challenge: self.bind.challenge,
            ..issued
        };
        (echoed == self.bind).then_some(issued)
    }

    /// The last datagram, for the relay's reply to the first; `None` if `reply` is no challenge of
    /// this handshake.
    pub fn answer(
        &self,
        server: &Channel,
        nonce: [u8; NONCE_LEN],
        reply: &[u8],
    ) -> Option<Vec<u8>> {
        let challenge = self.challenge(server, reply)?;
        Some(server.datagram(self.header, nonce, &Message::Answer(challenge)))
    }
}

/// A control datagram of the session `vni` with any frame.
pub fn control(vni: Vni, frame: &[u8]) -> Vec<u8> {
    [&control_header(vni)[..], frame].concat()
}

/// A data datagram of the session `vni`.
pub fn data(vni: Vni, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        control: false,
        protocol: PROTOCOL_WIREGUARD,
        vni,
    };
    [&header.encode()[..], payload].concat()
}

const fn control_header(vni: Vni) -> [u8; HEADER_LEN] {
    Header {
        control: true,
        protocol: PROTOCOL_DISCO,
        vni,
    }
    .encode()
}
