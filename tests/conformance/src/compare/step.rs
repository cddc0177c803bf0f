//! What may come to a relay: described once, made for each with its own keys, VNIs and challenges.

use relay_proto::Vni;

use super::{difference::Difference, subject::Both};

/// One step of a sequence. Numbers name clients, sessions, sides, challenges and places.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client asks for a session.
    Request {
        /// Who asks.
        client: usize,
        /// For whom.
        pair: [Party; 2],
        /// What is wrong with it.
        flaw: Option<RequestFlaw>,
    },
    /// A client says something to the relay.
    Control {
        /// What.
        message: Message,
        /// What is odd about it.
        oddity: Option<Oddity>,
    },
    /// A client says something to the other.
    Data {
        /// In which session.
        session: usize,
        /// From where.
        place: usize,
        /// Bytes behind the header.
        len: usize,
        /// What is odd about it.
        oddity: Option<Oddity>,
    },
    /// All of a handshake.
    Handshake {
        /// In which session.
        session: usize,
        /// Whose.
        side: usize,
        /// From where.
        place: usize,
    },
    /// Nothing of this protocol.
    Noise {
        /// From where.
        place: usize,
        /// What.
        bytes: Vec<u8>,
    },
}

/// Half of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Party {
    /// One of the clients.
    Client(usize),
    /// The relay's key in the network map.
    Node,
    /// The relay's key in handshakes.
    Server,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug)]
pub enum RequestFlaw {
    /// Another message than a request.
    Kind(u8),
    /// Of a version that is taken for empty.
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
    /// The session.
    pub session: usize,
    /// Whose.
    pub side: usize,
    /// From where.
    pub place: usize,
    /// Which.
    pub content: Content,
}

/// What a message says.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// Begins the handshake of this generation.
    Bind(u32),
    /// Answers a challenge of the session.
    Answer(usize),
}

/// What is odd about a datagram.
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
    /// Another version of the message, which is not looked at.
    MessageVersion,
    /// Bytes behind the body, which are not looked at.
    Trailing(usize),
    /// Sealed by someone else in the client's name.
    ForeignSeal,
    /// Sealed by someone who is not of the pair.
    Stranger,
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
    /// None.
    Zero,
    /// Of no session.
    Unused,
    /// Of that one.
    Session(usize),
}

impl Oddity {
    /// Whether a relay reads the datagram as if it were not there.
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
    /// Whose.
    pub side: usize,
    /// Of which handshake.
    pub generation: u32,
    /// For where.
    pub place: usize,
    /// What must come back; `None` of a relay that gave none.
    pub mac: Both<Option<[u8; 32]>>,
    /// Why ours gave none.
    pub difference: Option<Difference>,
}
