//! Datagrams on the relay's port that belong to no session but that someone waits for: probes of
//! other relays, and answers of STUN servers. They are handed over, and dropped when nobody takes
//! them fast enough: the data path never waits.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use relay_proto::geneve::HEADER_LEN;
use tokio::sync::mpsc;

/// Header of a probe: a control message in disco's protocol for VNI 0, which no session has.
pub const PROBE_HEADER: [u8; HEADER_LEN] = [0, 0x80, 0x7a, 0x11, 0, 0, 0, 0];
/// Type of a success response to a binding request (RFC 8489 section 5), and the magic cookie.
const STUN_SUCCESS: [u8; 2] = [0x01, 0x01];
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Datagrams that wait for their taker.
const QUEUE: usize = 64;
/// Largest datagram that is handed over: probes have 178 bytes, STUN answers mostly less than 100.
const LARGEST: usize = 512;

/// A datagram that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedDatagram {
    /// Where it came from.
    pub source: SocketAddr,
    /// The local address that was addressed.
    pub local: Option<IpAddr>,
    /// All of it.
    pub datagram: Vec<u8>,
}

/// What to set aside, and for whom. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Demux {
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Debug, Default)]
struct Wanted {
    probes: Option<mpsc::Sender<UnmatchedDatagram>>,
    stun: Option<mpsc::Sender<UnmatchedDatagram>>,
    /// Transactions of ours that are not over.
    transactions: Vec<TransactionId>,
}

/// Names a question to a STUN server.
pub type TransactionId = [u8; 12];

impl Demux {
    /// Takes over all probes, from whoever had them.
    pub fn probes(&self) -> mpsc::Receiver<UnmatchedDatagram> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.wanted().probes = Some(sender);
        receiver
    }

    /// Takes over all answers of STUN servers, from whoever had them.
    pub fn stun(&self) -> mpsc::Receiver<UnmatchedDatagram> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        self.wanted().stun = Some(sender);
        receiver
    }

    /// Which answers are expected; all others are nobody's.
    pub fn expect(&self, transactions: Vec<TransactionId>) {
        self.wanted().transactions = transactions;
    }

    /// Whether `datagram` is of the kind that someone waits for; then it is theirs.
    pub(super) fn takes(&self, source: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) -> bool {
        // Data, which is nearly everything, costs two comparisons.
        let Some(header) = datagram.first_chunk::<HEADER_LEN>() else {
            return false;
        };
        let probe = *header == PROBE_HEADER;
        let stun = header[..2] == STUN_SUCCESS && header[4..] == STUN_COOKIE;
        if !(probe || stun) || datagram.len() > LARGEST {
            return false;
        }
        let wanted = self.wanted();
        let expected = |id: &TransactionId| datagram[HEADER_LEN..].starts_with(id);
        let taker = match probe {
            true => &wanted.probes,
            false if wanted.transactions.iter().any(expected) => &wanted.stun,
            false => &None,
        };
        let Some(taker) = taker else { return false };
        let datagram = datagram.to_vec();
        let datagram = UnmatchedDatagram {
            source,
            local,
            datagram,
        };
        taker.try_send(datagram).ok();
        true
    }

    fn wanted(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
