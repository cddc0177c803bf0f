//! Disco messages of the peer relay protocol, 0x04 to 0x09, and their sealed frame
//! (Go package `disco`, docs/wire.md).
//!
//! ```text
//! frame     magic (6) | sender's disco key (32) | nonce (24) | NaCl box of: type (1) version (1) body
//! ```

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crypto_secretbox::aead::{
    Aead,
    generic_array::{GenericArray, typenum::U24},
};

use crate::crypto::key::{DiscoPublic, KEY_LEN, Pair};

/// The first bytes of every disco frame: "TS" and U+1F4AC (`disco.Magic`).
pub const MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// The length of a NaCl box nonce in bytes.
pub const NONCE_LEN: usize = 24;

const TAG_LEN: usize = 16;
const TYPE_LEN: usize = 2;
const COMMON_LEN: usize = 4 + 4 + KEY_LEN + CHALLENGE_LEN;
const CHALLENGE_LEN: usize = 32;
const ADDR_LEN: usize = 18;
const FRAME_OVERHEAD: usize = MAGIC.len() + KEY_LEN + NONCE_LEN + TAG_LEN;

/// The length in bytes of a sealed bind, challenge or answer. All three are equal, so that a reply is
/// never larger than the datagram that caused it.
pub const BIND_FRAME_LEN: usize = FRAME_OVERHEAD + TYPE_LEN + COMMON_LEN;

/// The number of a client's handshake for one session. The client counts it upward from one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u32);

/// The body of the three bind messages (`disco.BindUDPRelayEndpointCommon`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindCommon {
    /// The VNI of the session. This sealed copy counts, not the one in the Geneve header.
    pub vni: u32,
    /// The number of the handshake.
    pub generation: Generation,
    /// The disco key of the *other* client.
    pub remote: DiscoPublic,
    /// The relay's MAC over the sender's address; zero in a bind.
    pub challenge: [u8; CHALLENGE_LEN],
}

impl BindCommon {
    /// The body of a handshake's first message, without challenge.
    pub const fn first(vni: u32, generation: u32, remote: DiscoPublic) -> Self {
        Self {
            vni,
            generation: Generation(generation),
            remote,
            challenge: [0; CHALLENGE_LEN],
        }
    }
}

/// The description of an allocation that a relay sends to a client (`disco.UDPRelayEndpoint`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The key that seals the relay's side of the bind handshake.
    pub server: DiscoPublic,
    /// The clients that may bind.
    pub clients: Pair,
    /// The LamportID, which identifies this allocation together with `server`.
    pub lamport: u64,
    /// The VNI of the session.
    pub vni: u32,
    /// The lifetime of an unbound session, in nanoseconds.
    pub bind_lifetime_ns: u64,
    /// The time until a silent session ends, in nanoseconds.
    pub steady_lifetime_ns: u64,
    /// The addresses of the relay, in order of preference; at least one.
    pub addresses: Vec<SocketAddr>,
}

/// A message of the peer relay protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// 0x04, client to relay: starts a handshake.
    Bind(BindCommon),
    /// 0x05, relay to client: asks for proof that the client receives at its address.
    Challenge(BindCommon),
    /// 0x06, client to relay: is the proof.
    Answer(BindCommon),
    /// 0x07, client to client over DERP: names the relay through which the sender is reached.
    CallMeMaybeVia(Endpoint),
    /// 0x08, client to relay over DERP: asks for a session of a pair.
    AllocateRequest {
        /// The two clients, in the order of the wire.
        clients: [DiscoPublic; 2],
        /// A number that the response echoes.
        generation: Generation,
    },
    /// 0x09, relay to client over DERP: describes the allocation.
    AllocateResponse {
        /// The generation of the request.
        generation: Generation,
        /// The allocation.
        endpoint: Endpoint,
    },
}

impl Message {
    /// The message's type byte (`disco.MessageType`).
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Bind(_) => 0x04,
            Self::Challenge(_) => 0x05,
            Self::Answer(_) => 0x06,
            Self::CallMeMaybeVia(_) => 0x07,
            Self::AllocateRequest { .. } => 0x08,
            Self::AllocateResponse { .. } => 0x09,
        }
    }

    /// Reads a decrypted message; `None` for other types, for bodies that are too short, and for
    /// versions that Go reads as empty messages. Bytes after the body are ignored, as in Go.
    pub fn parse(plaintext: &[u8]) -> Option<Self> {
        let ([kind, version], body) = plaintext.split_first_chunk::<TYPE_LEN>()?;
        let mut body = Reader(body);
        // Go looks at the version of 0x07 to 0x09 only (docs/wire.md, section 3).
        if *kind >= 0x07 && *version != 0 {
            return None;
        }
        Some(match kind {
            0x04 => Self::Bind(body.common()?),
            0x05 => Self::Challenge(body.common()?),
            0x06 => Self::Answer(body.common()?),
            0x07 => Self::CallMeMaybeVia(body.endpoint()?),
            0x08 => Self::AllocateRequest {
                clients: [body.key()?, body.key()?],
                generation: body.generation()?,
            },
            0x09 => Self::AllocateResponse {
                generation: body.generation()?,
                endpoint: body.endpoint()?,
            },
            _ => return None,
        })
    }

    /// The plaintext of the message.
    pub fn marshal(&self) -> Vec<u8> {
        let mut out = vec![self.kind(), 0];
        match self {
            Self::Bind(common) | Self::Challenge(common) | Self::Answer(common) => {
                out.extend_from_slice(&common.vni.to_be_bytes());
                out.extend_from_slice(&common.generation.0.to_be_bytes());
                out.extend_from_slice(&common.remote.0);
                out.extend_from_slice(&common.challenge);
            }
            Self::CallMeMaybeVia(endpoint) => endpoint.append_to(&mut out),
            Self::AllocateRequest {
                clients,
                generation,
            } => {
                clients.iter().for_each(|key| out.extend_from_slice(&key.0));
                out.extend_from_slice(&generation.0.to_be_bytes());
            }
            Self::AllocateResponse {
                generation,
                endpoint,
            } => {
                out.extend_from_slice(&generation.0.to_be_bytes());
                endpoint.append_to(&mut out);
            }
        }
        out
    }
}

impl Endpoint {
    fn append_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.server.0);
        self.clients
            .keys()
            .iter()
            .for_each(|key| out.extend_from_slice(&key.0));
        out.extend_from_slice(&self.lamport.to_be_bytes());
        out.extend_from_slice(&self.vni.to_be_bytes());
        out.extend_from_slice(&self.bind_lifetime_ns.to_be_bytes());
        out.extend_from_slice(&self.steady_lifetime_ns.to_be_bytes());
        for address in &self.addresses {
            let ip = match address.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&address.port().to_be_bytes());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn key(&mut self) -> Option<DiscoPublic> {
        self.bytes().map(DiscoPublic)
    }

    fn generation(&mut self) -> Option<Generation> {
        self.bytes().map(u32::from_be_bytes).map(Generation)
    }

    fn common(&mut self) -> Option<BindCommon> {
        Some(BindCommon {
            vni: self.bytes().map(u32::from_be_bytes)?,
            generation: self.generation()?,
            remote: self.key()?,
            challenge: self.bytes()?,
        })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.bytes::<16>()?).to_canonical();
        Some(SocketAddr::new(ip, self.bytes().map(u16::from_be_bytes)?))
    }

    fn endpoint(&mut self) -> Option<Endpoint> {
        let server = self.key()?;
        let clients = Pair::new(self.key()?, self.key()?);
        let lamport = self.bytes().map(u64::from_be_bytes)?;
        let vni = self.bytes().map(u32::from_be_bytes)?;
        let bind_lifetime_ns = self.bytes().map(u64::from_be_bytes)?;
        let steady_lifetime_ns = self.bytes().map(u64::from_be_bytes)?;
        // As in Go, where an endpoint without an address is an error (`disco.UDPRelayEndpoint.decode`).
        if self.0.is_empty() || !self.0.len().is_multiple_of(ADDR_LEN) {
            return None;
        }
        let mut addresses = Vec::with_capacity(self.0.len() / ADDR_LEN);
        while !self.0.is_empty() {
            addresses.push(self.address()?);
        }
        Some(Endpoint {
            server,
            clients,
            lamport,
            vni,
            bind_lifetime_ns,
            steady_lifetime_ns,
            addresses,
        })
    }
}

/// Seals `plaintext` from `sender` with `shared`, the box of both keys.
///
/// The nonce must be unique for this pair of keys.
pub fn seal(
    shared: &impl Aead<NonceSize = U24>,
    sender: DiscoPublic,
    nonce: [u8; NONCE_LEN],
    plaintext: &[u8],
) -> Vec<u8> {
    let sealed = shared
        .encrypt(&GenericArray::from(nonce), plaintext)
        .expect("a message of a few hundred bytes is far below the cipher's limit");
    let mut frame = Vec::with_capacity(FRAME_OVERHEAD + plaintext.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&sender.0);
    frame.extend_from_slice(&nonce);
    frame.extend_from_slice(&sealed);
    frame
}

/// A disco frame with its box unopened.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The claimed sender, which opening the box proves.
    pub sender: DiscoPublic,
    nonce: [u8; NONCE_LEN],
    sealed: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Splits a frame into its parts; `None` if the bytes are no frame.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let rest = frame.strip_prefix(&MAGIC)?;
        let (sender, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        (sealed.len() >= TAG_LEN).then_some(Self {
            sender: DiscoPublic(*sender),
            nonce: *nonce,
            sealed,
        })
    }

    /// Opens the box; `None` if `sender` has not sealed it with `shared`, or it holds no message of
    /// this protocol.
    pub fn open(&self, shared: &impl Aead<NonceSize = U24>) -> Option<Message> {
        let plaintext = shared
            .decrypt(&GenericArray::from(self.nonce), self.sealed)
            .ok()?;
        Message::parse(&plaintext)
    }
}
