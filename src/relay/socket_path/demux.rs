//! Demultiplexer of datagrams on the relay's port that belong to no session: probes of other relays,
//! and answers of STUN servers. Each kind has a queue for one receiver. When that is full, datagrams
//! are dropped, because the data path never waits.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use relay_proto::geneve::HEADER_LEN;
use tokio::sync::mpsc;

/// Header of a probe: a control message in disco's protocol for VNI 0, which no session uses.
pub const PROBE_HEADER: [u8; HEADER_LEN] = [0, 0x80, 0x7a, 0x11, 0, 0, 0, 0];
/// Type of a success response to a binding request (RFC 8489 section 5), and the magic cookie.
const STUN_SUCCESS: [u8; 2] = [0x01, 0x01];
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Capacity of each queue, in datagrams.
const QUEUE_LEN: usize = 64;
/// Largest datagram that is queued. Probes have 178 bytes, STUN answers mostly less than 100.
const MAX_LEN: usize = 512;

/// A datagram that belongs to no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedDatagram {
    /// Address of the sender.
    pub source: SocketAddr,
    /// Local address that the sender has sent to.
    pub local: Option<IpAddr>,
    /// Payload of the UDP datagram.
    pub datagram: Vec<u8>,
}

/// Queues of datagrams that belong to no session. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Demux {
    receivers: Arc<Mutex<Receivers>>,
}

#[derive(Debug, Default)]
struct Receivers {
    probes: Option<mpsc::Sender<UnmatchedDatagram>>,
    stun: Option<mpsc::Sender<UnmatchedDatagram>>,
    /// Transactions with STUN servers that wait for an answer.
    transactions: Vec<TransactionId>,
}

/// Identifier of a request to a STUN server.
pub type TransactionId = [u8; 12];

impl Demux {
    /// Returns the queue of probes, which replaces an earlier one.
    pub fn probes(&self) -> mpsc::Receiver<UnmatchedDatagram> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        self.receivers().probes = Some(sender);
        receiver
    }

    /// Returns the queue of STUN answers, which replaces an earlier one.
    pub fn stun(&self) -> mpsc::Receiver<UnmatchedDatagram> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        self.receivers().stun = Some(sender);
        receiver
    }

    /// Sets the transactions whose answers are queued. Other STUN answers count as unknown datagrams.
    pub fn expect(&self, transactions: Vec<TransactionId>) {
        self.receivers().transactions = transactions;
    }

    /// Queues `datagram` if it is of a kind that has a receiver. Returns whether it is.
    pub(super) fn takes(&self, source: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) -> bool {
        // Data, which is nearly everything, costs two comparisons.
        let Some(header) = datagram.first_chunk::<HEADER_LEN>() else {
            return false;
        };
        let probe = *header == PROBE_HEADER;
        let stun = header[..2] == STUN_SUCCESS && header[4..] == STUN_COOKIE;
        if !(probe || stun) || datagram.len() > MAX_LEN {
            return false;
        }
        let receivers = self.receivers();
        let expected = |id: &TransactionId| datagram[HEADER_LEN..].starts_with(id);
        let queue = match probe {
            true => &receivers.probes,
            // Anyone can send STUN answers here. Those to no request must not fill the queue.
            false if receivers.transactions.iter().any(expected) => &receivers.stun,
            false => &None,
        };
        let Some(queue) = queue else { return false };
        let datagram = datagram.to_vec();
        let datagram = UnmatchedDatagram {
            source,
            local,
            datagram,
        };
        queue.try_send(datagram).ok();
        true
    }

    fn receivers(&self) -> std::sync::MutexGuard<'_, Receivers> {
        self.receivers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
