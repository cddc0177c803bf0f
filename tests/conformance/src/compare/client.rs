//! A client's keys, and the datagrams it makes.

use relay_proto::{
    DiscoPublic, DiscoSecret, SharedBox, Vni,
    disco::{BindCommon, Frame, Generation, Message, seal},
    geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, PROTOCOL_WIREGUARD},
};

use super::rng::Rng;

/// A client of relays.
#[derive(Debug)]
pub struct Client {
    secret: DiscoSecret,
    /// The disco key of the client.
    pub key: DiscoPublic,
}

impl Client {
    /// A client with a new key.
    pub fn new(rng: &mut Rng) -> Self {
        let secret = DiscoSecret::from_bytes(rng.bytes());
        let key = secret.public();
        Self { secret, key }
    }

    /// The box between it and the holder of `other`.
    pub fn shared_with(&self, other: DiscoPublic) -> SharedBox {
        self.secret.shared_with(other)
    }

    /// A disco frame of this client.
    pub fn seal(&self, shared: &SharedBox, rng: &mut Rng, plaintext: &[u8]) -> Vec<u8> {
        seal(shared, self.key, rng.bytes(), plaintext)
    }

    /// A request for a session of `clients`.
    pub fn request(
        &self,
        shared: &SharedBox,
        rng: &mut Rng,
        clients: [DiscoPublic; 2],
        generation: u32,
    ) -> Vec<u8> {
        let request = Message::AllocateRequest {
            clients,
            generation: Generation(generation),
        };
        self.seal(shared, rng, &request.marshal())
    }
}

/// Opens a frame that `sender` sealed with `shared`.
pub fn open(frame: &[u8], sender: DiscoPublic, shared: &SharedBox) -> Option<Message> {
    let frame = Frame::parse(frame).filter(|frame| frame.sender == sender)?;
    frame.open(shared)
}

/// A control datagram with a frame in it.
pub fn control(vni: Vni, frame: &[u8]) -> Vec<u8> {
    behind(vni, true, PROTOCOL_DISCO, frame)
}

/// A data datagram.
pub fn data(vni: Vni, payload: &[u8]) -> Vec<u8> {
    behind(vni, false, PROTOCOL_WIREGUARD, payload)
}

/// The challenge in a control datagram of the relay whose key is `server`, and its VNI.
pub fn challenge(
    datagram: &[u8],
    server: DiscoPublic,
    shared: &SharedBox,
) -> Option<(Vni, BindCommon)> {
    let header = Header::decode(datagram)
        .filter(|header| header.control && header.protocol == PROTOCOL_DISCO)?;
    match open(&datagram[HEADER_LEN..], server, shared)? {
        Message::Challenge(common) => Some((header.vni, common)),
        _ => None,
    }
}

fn behind(vni: Vni, control: bool, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        control,
        protocol,
        vni,
    };
    [&header.encode()[..], payload].concat()
}
