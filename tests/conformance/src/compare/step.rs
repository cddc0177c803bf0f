//! Datagrams and requests, described once and made for each relay with its own keys, VNIs and
//! challenges.

use relay_proto::Vni;

use super::{difference::Difference, subject::Both};

/// A step of a sequence. Numbers name clients, sessions, sides, challenges and places.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client asks for a session.
    Request {
        /// The client that asks.
        client: usize,
        /// The pair of clients of the session.
        pair: [Party; 2],
        /// The flaw of the request, if it has one.
        flaw: Option<RequestFlaw>,
    },
    /// A client says something to the relay.
    Control {
        /// The disco message.
        message: Message,
        /// The oddity of the datagram, if it has one.
        oddity: Option<Oddity>,
    },
    /// A client says something to the other.
    Data {
        /// The number of the session.
        session: usize,
        /// The place from which it is sent.
        place: usize,
        /// Bytes behind the header.
        len: usize,
        /// The oddity of the datagram, if it has one.
        oddity: Option<Oddity>,
    },
    /// A whole handshake.
    Handshake {
        /// The number of the session.
        session: usize,
        /// The side of the session that sends.
        side: usize,
        /// The place from which it is sent.
        place: usize,
    },
    /// A datagram that is not of this protocol.
    Noise {
        /// The place from which it is sent.
        place: usize,
        /// The datagram's bytes.
        bytes: Vec<u8>,
    },
}

/// A member of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Party {
    /// A client, by its number.
    Client(usize),
    /// The relay's key in the network map.
    Node,
    /// The relay's key in handshakes.
    Server,
}

/// A flaw of a request.
#[derive(Clone, Copy, Debug)]
pub enum RequestFlaw {
    /// Another message than a request.
    Kind(u8),
    /// A version that is taken for an empty message.
    Version,
    /// Sealed for the wrong key of the relay.
    SealedForServer,
    /// A byte was changed.
    Changed(usize),
    /// The end is missing.
    Cut(usize),
}

/// A message of a handshake.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The number of the session.
    pub session: usize,
    /// The side of the session that sends.
    pub side: usize,
    /// The place from which it is sent.
    pub place: usize,
    /// The content of the message.
    pub content: Content,
}

/// The content of a handshake message.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Begins the handshake of this generation.
    Bind(u32),
    /// Answers a challenge of the session.
    Answer(usize),
}

/// An oddity of a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Oddity {
    /// Reserved bits of the Geneve header are set.
    ReservedBits,
    /// The Geneve header claims options.
    OptionLength,
    /// Another version of Geneve.
    GeneveVersion(u8),
    /// Another protocol type.
    Protocol(u16),
    /// The control bit is the other way.
    ControlBit,
    /// The header names another session.
    Header(Elsewhere),
    /// The sealed VNI is another session's.
    SealedVni,
    /// The sealed remote key is the sender's own.
    OwnRemoteKey,
    /// A bit of the challenge was changed; in a bind it means nothing.
    Challenge,
    /// Another type of message.
    Kind(u8),
    /// Another version of the message, which relays ignore.
    MessageVersion,
    /// Bytes behind the body, which relays ignore.
    Trailing(usize),
    /// Sealed by someone else in the client's name.
    ForeignSeal,
    /// Sealed by someone who is not of the pair.
    Outsider,
    /// Sealed by the other client.
    OtherClient,
    /// Sealed for the relay's node key.
    SealedForNode,
    /// A byte behind the Geneve header was changed.
    Changed(usize),
    /// Only this many bytes of it.
    Cut(usize),
}

/// Another VNI than the session's.
#[derive(Clone, Copy, Debug)]
pub enum Elsewhere {
    /// VNI 0, which no session has.
    Zero,
    /// A VNI that no session has.
    Unused,
    /// The VNI of another session.
    Session(usize),
}

impl Oddity {
    /// Says whether a relay reads the datagram as if it had no oddity.
    pub const fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::ReservedBits | Self::OptionLength | Self::MessageVersion | Self::Trailing(_)
        )
    }

    /// Makes the header odd; `vnis` are those of the sessions.
    pub fn mark(self, datagram: &mut Vec<u8>, vni_of: impl Fn(usize) -> Vni) {
        match self {
            Self::ReservedBits => {
                datagram[1] |= 0x7f;
                datagram[7] = 0xff;
            }
            Self::OptionLength => datagram[0] |= 0x3f,
            Self::GeneveVersion(version) => datagram[0] |= version << 6,
            Self::Protocol(protocol) => datagram[2..4].copy_from_slice(&protocol.to_be_bytes()),
            Self::ControlBit => datagram[1] ^= 0x80,
            Self::Header(elsewhere) => {
                let number = match elsewhere {
                    Elsewhere::Zero => 0,
                    Elsewhere::Unused => UNUSED_VNI,
                    Elsewhere::Session(session) => vni_of(session).number(),
                };
                datagram[4..7].copy_from_slice(&number.to_be_bytes()[1..]);
            }
            Self::Changed(at) => {
                let body = &mut datagram[relay_proto::geneve::HEADER_LEN..];
                let at = at % body.len();
                body[at] ^= 0x40;
            }
            Self::Cut(len) => datagram.truncate(len),
            _ => {}
        }
    }
}

/// Go counts up from 1 and does not get there; ours hits it once in 16 million draws.
const UNUSED_VNI: u32 = 0x00ff_fff0;

/// A challenge that a relay gave, each its own.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The side of the session that sends.
    pub side: usize,
    /// The generation of the handshake.
    pub generation: u32,
    /// The place for which the challenge was made.
    pub place: usize,
    /// The authenticator that must come back; `None` of a relay that gave none.
    pub mac: Both<Option<[u8; 32]>>,
    /// The difference because of which our relay gave none.
    pub difference: Option<Difference>,
}
