//! A sequence: clients, their sessions with both relays, and the comparison after each step.

mod control;
mod data;
mod draw;
mod request;

use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use relay_proto::{
    DiscoPublic, DropReason, Vni,
    client::{Channel, Client},
};

use super::{
    difference::Difference,
    ours::Ours,
    place::{Kind, Places},
    random_client,
    reference::Reference,
    rng::Rng,
    step::{Challenge, Oddity, Step},
    subject::{Arrival, Both, LegState, Reaction, Subject, Which},
    tally::Tally,
};

/// Clients of a sequence.
const CLIENTS: usize = 4;

/// The two relays, what clients know of them, and the course so far.
pub struct Sequence<'a> {
    rng: Rng,
    places: Rc<Places>,
    clients: Vec<Client>,
    sessions: Vec<PairedSession>,
    go: &'a mut Reference,
    ours: Ours,
    limits: bool,
    outsider: Client,
    /// Channels between each client and the relays' node keys.
    node_channels: Vec<Both<Channel>>,
    server: Option<Server>,
    /// VNI and LamportID that were given out last.
    newest: &'a mut (u32, u64),
    our_newest: (u32, u64),
    /// Pairs that have a session with one relay only.
    barred: Vec<[usize; 2]>,
    tally: &'a mut Tally,
}

/// The keys of the relays' handshakes, and the channels to them.
struct Server {
    key: Both<DiscoPublic>,
    clients: Vec<Both<Channel>>,
    outsider: Both<Channel>,
}

/// A session that both gave.
struct PairedSession {
    vni: Both<Vni>,
    lamport: Both<u64>,
    /// Clients, smaller disco key first.
    pair: [usize; 2],
    owner: usize,
    legs: [Leg; 2],
    challenges: Vec<Challenge>,
    /// The places to which both relays have bound the legs.
    bound: [Option<usize>; 2],
    /// Packets and bytes that Go alone forwarded.
    surplus: [(u64, u64); 2],
    /// A leg is bound with one relay only, until the next handshake.
    apart: bool,
    /// True once one relay has ended the session.
    ended: bool,
}

/// Handshakes of one client.
#[derive(Clone, Copy, Default)]
struct Leg {
    /// The one that was begun last and is not completed; 0 for none.
    begun: Both<u32>,
    /// The last that we completed.
    completed: u32,
}

impl Leg {
    /// A generation that is new to both.
    fn fresh(&self) -> u32 {
        let begun = self.begun[Which::Go].max(self.begun[Which::Ours]);
        begun.max(self.completed) + 1
    }
}

/// The expected effect of a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Effect {
    Silence,
    Forward {
        to: usize,
    },
    Challenge {
        to: usize,
        generation: u32,
        remote: DiscoPublic,
    },
}

/// The reactions of both relays to a datagram.
#[derive(Clone, Copy)]
struct Reactions {
    effects: Both<Effect>,
    /// The authenticators in the challenges of both relays.
    macs: Both<Option<[u8; 32]>>,
    /// The drop reason of our relay.
    reason: Option<DropReason>,
}

impl<'a> Sequence<'a> {
    /// A sequence of its own seed; `newest` is what Go gave out last.
    pub fn new(
        seed: u64,
        go: &'a mut Reference,
        newest: &'a mut (u32, u64),
        places: Rc<Places>,
        tally: &'a mut Tally,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let limits = rng.percent(30);
        let ours = Ours::new(places.clone(), limits, &mut rng);
        let clients: Vec<_> = (0..CLIENTS).map(|_| random_client(&mut rng)).collect();
        let node = Both::from([go.node(), ours.node()]);
        let node_channels = clients.iter().map(|client| channels(client, node));
        let node_channels = node_channels.collect();
        Self {
            outsider: random_client(&mut rng),
            rng,
            places,
            clients,
            sessions: Vec::new(),
            go,
            ours,
            limits,
            node_channels,
            server: None,
            newest,
            our_newest: (0, 0),
            barred: Vec::new(),
            tally,
        }
    }

    /// Takes one step with both.
    ///
    /// # Errors
    /// They differ, and not in a way that is on purpose.
    pub fn take(&mut self, step: &Step) -> Result<()> {
        self.tally.steps += 1;
        match step {
            Step::Request { client, pair, flaw } => self.request(*client, *pair, *flaw),
            Step::Control { message, oddity } => self.control(*message, *oddity),
            Step::Data {
                session,
                place,
                len,
                oddity,
            } => self.data(*session, *place, *len, *oddity),
            Step::Handshake {
                session,
                side,
                place,
            } => {
                self.handshake(*session, *side, *place)?;
                let may_bind = self.places.get(*place).kind == Kind::Elsewhere;
                let bound = self.sessions[*session].bound[*side] == Some(*place);
                ensure!(bound || !may_bind, "a handshake without fault did not bind");
                Ok(())
            }
            Step::Noise { place, bytes } => self.noise(*place, bytes),
        }
    }

    /// Compares every session that both have.
    pub fn close(&mut self) -> Result<()> {
        for session in 0..self.sessions.len() {
            if !self.sessions[session].ended {
                self.compare(session)?;
            }
        }
        Ok(())
    }

    fn subject(&mut self, which: Which) -> &mut dyn Subject {
        match which {
            Which::Go => self.go,
            Which::Ours => &mut self.ours,
        }
    }

    /// Gives each relay its datagram, and reads its answers.
    fn deliver(
        &mut self,
        session: usize,
        side: usize,
        place: usize,
        datagrams: &Both<Vec<u8>>,
    ) -> Result<Reactions> {
        let mut macs = Both::default();
        let mut reason = None;
        let effects = Both::of(|which| {
            let datagram = &datagrams[which];
            let reaction = self.subject(which).deliver(place, datagram)?;
            reason = reason.or(reaction.reason);
            let (effect, mac) = self.read(which, session, side, datagram, &reaction)?;
            macs[which] = mac;
            Ok(effect)
        })?;
        Ok(Reactions {
            effects,
            macs,
            reason,
        })
    }

    fn read(
        &self,
        which: Which,
        session: usize,
        side: usize,
        datagram: &[u8],
        reaction: &Reaction<Vec<Arrival>>,
    ) -> Result<(Effect, Option<[u8; 32]>)> {
        let [arrival] = &reaction.sent[..] else {
            ensure!(reaction.sent.is_empty(), "{which:?} sends more than one");
            return Ok((Effect::Silence, None));
        };
        let (to, sent) = (arrival.place, &arrival.datagram);
        if sent == datagram {
            return Ok((Effect::Forward { to }, None));
        }
        let session = &self.sessions[session];
        let server = self.server.as_ref().context("no server key is known")?;
        let channel = &server.clients[session.pair[side]][which];
        let (vni, common) = channel
            .challenge(sent)
            .with_context(|| format!("{which:?} sends what is no challenge"))?;
        ensure!(
            vni == session.vni[which] && common.vni == vni.number(),
            "{which:?} sends a challenge of another session"
        );
        ensure!(
            sent.len() <= datagram.len(),
            "{which:?} sends more than it got"
        );
        let effect = Effect::Challenge {
            to,
            generation: common.generation.0,
            remote: common.remote,
        };
        Ok((effect, Some(common.challenge)))
    }

    /// A difference that any datagram from there, or with this header, makes.
    fn of_datagram(&self, place: usize, oddity: Option<Oddity>) -> Option<Difference> {
        if matches!(oddity, Some(Oddity::GeneveVersion(_))) {
            return Some(Difference::GeneveVersion);
        }
        match self.places.get(place).kind {
            Kind::Elsewhere => None,
            Kind::Own => Some(Difference::OwnAddress),
            Kind::Loopback => Some(Difference::LoopbackAddress),
        }
    }

    fn differ(&mut self, difference: Difference, reason: Option<DropReason>) -> Result<()> {
        let expected = difference.drop_reasons();
        let as_expected = match reason {
            Some(reason) => expected.contains(&reason),
            None => expected.is_empty(),
        };
        ensure!(
            as_expected,
            "{difference:?}: ours says {reason:?}, none of {expected:?}"
        );
        self.tally.count(difference);
        Ok(())
    }

    fn alike(&mut self, reactions: Reactions) -> Result<()> {
        let Reactions {
            effects, reason, ..
        } = reactions;
        let (go, ours) = (effects[Which::Go], effects[Which::Ours]);
        ensure!(go == ours, "Go: {go:?}; ours: {ours:?} ({reason:?})");
        match ours {
            Effect::Silence => self.tally.silences += 1,
            Effect::Forward { .. } => self.tally.forwarded += 1,
            Effect::Challenge { .. } => self.tally.challenges += 1,
        }
        Ok(())
    }

    fn legs(&mut self, session: usize) -> Result<Both<[LegState; 2]>> {
        let vni = self.sessions[session].vni;
        Both::of(|which| {
            let legs = self.subject(which).legs(vni[which])?;
            legs.with_context(|| format!("{which:?} has a session no more"))
        })
    }

    /// Fails unless both relays have the legs in the same places and have heard the same from them.
    fn compare(&mut self, session: usize) -> Result<()> {
        if self.sessions[session].apart {
            return Ok(());
        }
        let legs = self.legs(session)?;
        let session = &mut self.sessions[session];
        for side in [0, 1] {
            let (packets, bytes) = session.surplus[side];
            let mut ours = legs[Which::Ours][side];
            ours.packets += packets;
            ours.bytes += bytes;
            let go = legs[Which::Go][side];
            ensure!(go == ours, "leg {side} of Go's: {go:?}; of ours: {ours:?}");
            session.bound[side] = ours.place;
        }
        Ok(())
    }
}

impl PairedSession {
    fn is_open(&self) -> bool {
        self.bound.iter().all(Option::is_some)
    }
}

/// The channels of a client to a key of each relay.
fn channels(client: &Client, key: Both<DiscoPublic>) -> Both<Channel> {
    Both::from(Which::ALL.map(|which| client.channel(key[which])))
}
