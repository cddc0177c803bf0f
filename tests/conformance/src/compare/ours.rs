//! Our relay: the core alone, in a moment that does not pass.

use std::{collections::VecDeque, net::SocketAddr, num::NonZero, rc::Rc, time::Duration};

use anyhow::{Context, Result};
use relay_proto::{
    CloseReason, Config, DiscoPublic, DiscoSecret, Event, Keys, NodeKey, Peer, REPLY_LEN, Relay,
    Timestamp, Verdict, Vni,
};

use super::{
    place::{Kind, Places},
    rng::Rng,
    subject::{Arrival, LegState, Reaction, Subject},
};

/// Sessions of one node where there are limits.
pub const MOST_SESSIONS_PER_NODE: usize = 1;

/// The relay of one sequence.
pub struct Ours {
    relay: Relay,
    node: DiscoPublic,
    places: Rc<Places>,
    evicted: VecDeque<Vni>,
}

impl Ours {
    /// A relay without sessions. With `limits`, a node has one session, and each little
    /// bandwidth.
    pub fn new(places: Rc<Places>, limits: bool, rng: &mut Rng) -> Self {
        let mut config = Config::default();
        if limits {
            config.max_sessions_per_node = MOST_SESSIONS_PER_NODE;
            config.max_bytes_per_second_per_session = NonZero::new(1);
        }
        let keys = Keys {
            node: DiscoSecret::from_bytes(rng.bytes()),
            server: DiscoSecret::from_bytes(rng.bytes()),
        };
        let node = keys.node.public();
        let mut relay = Relay::new(config, keys, rng.bytes(), 1, now());
        let own = places.of(Kind::Own);
        relay.set_addresses(own.iter().map(|at| places.get(*at).seen).collect());
        Self {
            relay,
            node,
            places,
            evicted: VecDeque::new(),
        }
    }

    /// A session that gave way at a limit and is not reported yet.
    pub fn take_evicted(&mut self) -> Option<Vni> {
        self.evicted.pop_front()
    }

    fn place(&self, address: SocketAddr) -> Result<usize> {
        self.places
            .find(address)
            .with_context(|| format!("no client has the address {address}"))
    }

    fn read_events(&mut self) {
        while let Some(event) = self.relay.poll_event() {
            if let Event::Closed { vni, reason } = event {
                assert_eq!(reason, CloseReason::Evicted, "no time passes");
                self.evicted.push_back(vni);
            }
        }
    }
}

impl Subject for Ours {
    fn node(&self) -> DiscoPublic {
        self.node
    }

    fn allocate(&mut self, node: u8, request: &[u8]) -> Result<Reaction<Option<Vec<u8>>>> {
        let sender = relay_proto::disco::Frame::parse(request).map(|frame| frame.sender);
        let peer = Peer {
            node_key: NodeKey([node; 32]),
            disco: sender,
            may_relay: true,
            unsigned_peer_api_only: false,
        };
        let answer = self.relay.handle_derp(Some(&peer), request, now());
        self.read_events();
        Ok(Reaction {
            reason: answer.as_ref().err().copied(),
            sent: answer.ok(),
        })
    }

    fn deliver(&mut self, from: usize, datagram: &[u8]) -> Result<Reaction<Vec<Arrival>>> {
        let source = self.places.get(from).seen;
        let mut reply = [0; REPLY_LEN];
        let verdict = self
            .relay
            .handle_datagram(source, None, datagram, now(), &mut reply);
        self.read_events();
        let mut reaction = Reaction {
            sent: Vec::new(),
            reason: None,
        };
        match verdict {
            Verdict::Forward { to, .. } => reaction.sent.push(Arrival {
                place: self.place(to)?,
                datagram: datagram.to_vec(),
            }),
            Verdict::Reply { len } => reaction.sent.push(Arrival {
                place: from,
                datagram: reply[..len].to_vec(),
            }),
            Verdict::Consumed => {}
            Verdict::Drop(reason) => reaction.reason = Some(reason),
        }
        Ok(reaction)
    }

    fn legs(&mut self, vni: Vni) -> Result<Option<[LegState; 2]>> {
        let Some(session) = self.relay.sessions().find(|session| session.vni == vni) else {
            return Ok(None);
        };
        let [a, b] = session.legs.map(|leg| {
            Ok::<_, anyhow::Error>(LegState {
                place: leg.address.map(|address| self.place(address)).transpose()?,
                packets: leg.packets,
                bytes: leg.bytes,
            })
        });
        Ok(Some([a?, b?]))
    }
}

fn now() -> Timestamp {
    Timestamp::from_start(Duration::from_secs(1_000))
}
