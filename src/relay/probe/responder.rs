//! The synthetic endpoint: completes bind handshakes of peer relays, and does nothing else.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use relay_proto::{
    DiscoPublic, DiscoSecret, SharedBox,
    disco::{BindCommon, Frame, Generation, Message, seal},
};

use crate::relay::socket_path::PROBE_HEADER;

/// Handshakes of one relay that wait for their answer.
const PENDING: usize = 16;

/// Random bytes for a reply: a challenge and a nonce.
pub(super) type Random = ([u8; 32], [u8; 24]);

/// Answers binds of the relays that it knows.
pub(super) struct Responder {
    secret: DiscoSecret,
    public: DiscoPublic,
    peers: BTreeMap<DiscoPublic, PeerState>,
}

struct PeerState {
    shared: SharedBox,
    seen: Window,
    pending: VecDeque<(SocketAddr, BindCommon)>,
    completed: u64,
}

impl Responder {
    pub(super) fn new(secret: DiscoSecret) -> Self {
        Self {
            public: secret.public(),
            secret,
            peers: BTreeMap::new(),
        }
    }

    /// Answers these relays from now on, and no others.
    pub(super) fn set_peers(&mut self, keys: impl Iterator<Item = DiscoPublic>) {
        let mut before = std::mem::take(&mut self.peers);
        for key in keys.filter(|key| *key != self.public) {
            let peer = before.remove(&key).unwrap_or_else(|| PeerState {
                shared: self.secret.shared_with(key),
                seen: Window::default(),
                pending: VecDeque::new(),
                completed: 0,
            });
            self.peers.insert(key, peer);
        }
    }

    /// The reply to a datagram, as long as the datagram; `None` for all that is no bind of a known
    /// relay for this one, and for one that was seen before.
    pub(super) fn handle(
        &mut self,
        source: SocketAddr,
        datagram: &[u8],
        (challenge, nonce): Random,
    ) -> Option<Vec<u8>> {
        let frame = Frame::parse(datagram.strip_prefix(&PROBE_HEADER)?)?;
        let peer = self.peers.get_mut(&frame.sender)?;
        match frame.open(&peer.shared)? {
            Message::Bind(bind) if bind.vni == 0 && bind.remote == self.public => {
                if !peer.seen.admit(bind.generation) {
                    return None;
                }
                let issued = BindCommon { challenge, ..bind };
                if peer.pending.len() == PENDING {
                    peer.pending.pop_front();
                }
                peer.pending.push_back((source, issued));
                let plaintext = Message::Challenge(issued).marshal();
                let sealed = seal(&peer.shared, self.public, nonce, &plaintext);
                Some([&PROBE_HEADER[..], &sealed].concat())
            }
            Message::Answer(answer) => {
                let at = peer.pending.iter().position(|p| *p == (source, answer))?;
                peer.pending.remove(at);
                peer.completed += 1;
                tracing::debug!(completed = peer.completed, "probe completed");
                None
            }
            _ => None,
        }
    }

    /// Handshakes that a relay has completed.
    #[cfg(test)]
    pub(super) fn completed(&self, key: DiscoPublic) -> u64 {
        self.peers.get(&key).map_or(0, |peer| peer.completed)
    }
}

/// Sliding window of generations: each is admitted once, and none that is older than 63 others. So
/// a recorded bind is not answered when it is sent again from another address.
#[derive(Default)]
struct Window {
    greatest: u32,
    below: u64,
}

impl Window {
    fn admit(&mut self, Generation(generation): Generation) -> bool {
        if generation > self.greatest {
            let by = generation - self.greatest;
            self.below = match by {
                0..64 => self.below << by | 1,
                _ => 1,
            };
            self.greatest = generation;
            return true;
        }
        let mask = match self.greatest - generation {
            age @ 0..64 if generation != 0 => 1 << age,
            _ => return false,
        };
        let fresh = self.below & mask == 0;
        self.below |= mask;
        fresh
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::check;
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn only_a_bind_under_a_right_seal_is_answered() {
        let [own, other] = [1, 2].map(|n| DiscoSecret::from_bytes([n; 32]));
        let bind = BindCommon::first(0, 1, own.public());
        let shared = other.shared_with(own.public());
        let plaintext = Message::Bind(bind).marshal();
        let source = "192.0.2.1:9".parse().unwrap();
        let check = check!().with_iterations(4_000);
        let check = check.with_generator((edits(), edits()));
        check.for_each(|(inside, outside)| {
            let mut responder = Responder::new(own.clone());
            responder.set_peers([other.public()].into_iter());
            let plaintext = edited(&plaintext, inside);
            let sealed = seal(&shared, other.public(), [9; 24], &plaintext);
            let whole = [&PROBE_HEADER[..], &sealed].concat();
            let datagram = edited(&whole, outside);
            let asks = match Message::parse(&plaintext) {
                Some(Message::Bind(said)) => {
                    said.vni == 0 && said.remote == own.public() && said.generation.0 != 0
                }
                _ => false,
            };
            let reply = responder.handle(source, &datagram, ([5; 32], [6; 24]));
            assert_eq!(reply.is_some(), asks && datagram == whole);
            assert!(reply.is_none_or(|reply| reply.len() <= datagram.len()));
            assert_eq!(responder.completed(other.public()), 0);
        });
    }

    #[test]
    fn each_generation_is_admitted_once_in_any_order() {
        let mut window = Window::default();
        let mut admit = |n| window.admit(Generation(n));
        assert!(!admit(0));
        assert!(admit(5) && admit(3) && admit(4) && admit(67));
        assert!(!admit(5) && !admit(3) && !admit(67));
        assert!(admit(6) && !admit(6), "61 below the greatest");
        assert!(admit(1_000) && !admit(70));
    }
}
