//! One session: two clients, their handshakes, and which address is whose.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    challenge::Challenges,
    counters::Traffic,
    disco::{BindCommon, Generation, Message},
    event::Activity,
    geneve::Vni,
    key::{NodeKey, Pair, Side},
    state::{SavedLeg, SavedSession},
    time::Timestamp,
    verdict::DropReason,
};

/// One client's half of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Leg {
    /// Handshake that was begun last and is not completed.
    in_progress: Option<Generation>,
    /// Greatest generation that was completed: older ones never move the leg back.
    completed: Generation,
    /// Where the client receives, once proven.
    pub(crate) address: Option<SocketAddr>,
    /// Which of the relay's addresses the client knows it by.
    pub(crate) local: Option<IpAddr>,
    /// Last datagram from there.
    pub(crate) last_seen: Timestamp,
    /// Data datagrams from there.
    pub(crate) packets: u64,
    /// UDP payload of these, Geneve header included.
    pub(crate) bytes: u64,
    /// What another path forwarded from there.
    pub(crate) elsewhere: Traffic,
}

/// What a bind message did.
pub(crate) enum Handshake {
    /// Reply with this challenge.
    Challenge(BindCommon),
    /// The leg is bound for the first time.
    Bound,
    /// The leg was bound before and is now bound by a newer handshake.
    Rebound,
}

/// A pair of clients with an allocated VNI.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) vni: Vni,
    pub(crate) lamport: u64,
    pub(crate) pair: Pair,
    /// Who asked for it, and whose limit it counts against.
    pub(crate) owner: NodeKey,
    pub(crate) allocated: Timestamp,
    legs: [Leg; 2],
}

impl Session {
    pub(crate) fn new(vni: Vni, lamport: u64, pair: Pair, owner: NodeKey, now: Timestamp) -> Self {
        Self {
            vni,
            lamport,
            pair,
            owner,
            allocated: now,
            legs: [Leg::default(); 2],
        }
    }

    pub(crate) fn save(&self, now: Timestamp) -> SavedSession {
        SavedSession {
            vni: self.vni,
            lamport: self.lamport,
            pair: self.pair,
            owner: self.owner,
            age: now.since(self.allocated),
            legs: self.legs.map(|leg| SavedLeg {
                in_progress: leg.in_progress,
                completed: leg.completed,
                address: leg.address,
                local: leg.local,
                silent: now.since(leg.last_seen),
                packets: leg.packets,
                bytes: leg.bytes,
            }),
        }
    }

    /// The session that was saved `away` ago.
    pub(crate) fn restore(saved: &SavedSession, now: Timestamp, away: Duration) -> Self {
        let past = |age: Duration| now.before(age.saturating_add(away));
        Self {
            vni: saved.vni,
            lamport: saved.lamport,
            pair: saved.pair,
            owner: saved.owner,
            allocated: past(saved.age),
            legs: saved.legs.map(|leg| Leg {
                in_progress: leg.in_progress,
                completed: leg.completed,
                address: leg.address,
                local: leg.local,
                last_seen: past(leg.silent),
                packets: leg.packets,
                bytes: leg.bytes,
                elsewhere: Traffic::default(),
            }),
        }
    }

    pub(crate) const fn leg(&self, side: Side) -> &Leg {
        &self.legs[side.index()]
    }

    /// Both legs are bound.
    pub(crate) const fn is_open(&self) -> bool {
        self.legs[0].address.is_some() && self.legs[1].address.is_some()
    }

    /// When the session ends if nothing more is heard.
    pub(crate) fn deadline(&self, bind: Duration, steady: Duration) -> Timestamp {
        if self.is_open() {
            self.legs[0].last_seen.min(self.legs[1].last_seen) + steady
        } else {
            self.allocated + bind
        }
    }

    /// Handles a bind message that the client on `side` sealed.
    pub(crate) fn handshake(
        &mut self,
        side: Side,
        message: &Message,
        source: SocketAddr,
        local: Option<IpAddr>,
        challenges: &Challenges,
        now: Timestamp,
    ) -> Result<Handshake, DropReason> {
        let (Message::Bind(common) | Message::Answer(common)) = message else {
            return Err(DropReason::UnexpectedMessage);
        };
        if common.vni != self.vni.number() || common.remote != self.pair.key(side.other()) {
            return Err(DropReason::WrongSession);
        }
        let leg = &mut self.legs[side.index()];
        if matches!(message, Message::Bind(_)) {
            leg.begin(common.generation)?;
            let challenge = challenges.issue(common, source);
            return Ok(Handshake::Challenge(BindCommon {
                challenge,
                ..*common
            }));
        }
        if leg.in_progress != Some(common.generation) {
            return Err(DropReason::StaleGeneration);
        }
        if !challenges.verify(common, source) {
            return Err(DropReason::BadChallenge);
        }
        let rebound = leg.address.is_some();
        leg.complete(common.generation, source, local, now);
        Ok(if rebound {
            Handshake::Rebound
        } else {
            Handshake::Bound
        })
    }

    /// Accounts what another path forwarded, in all, from the leg on `side`.
    pub(crate) fn note_activity(&mut self, side: Side, activity: Activity) {
        let leg = &mut self.legs[side.index()];
        leg.elsewhere = activity.traffic;
        leg.last_seen = leg.last_seen.max(activity.last_seen);
    }

    /// Accounts data from `source` and names the leg it goes to, and the local address it leaves
    /// from.
    pub(crate) fn forward(
        &mut self,
        source: SocketAddr,
        packets: u32,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(SocketAddr, Option<IpAddr>), DropReason> {
        let [Some(a), Some(b)] = [self.legs[0].address, self.legs[1].address] else {
            return Err(DropReason::NotBound);
        };
        let (side, to) = match source {
            _ if source == a => (Side::A, b),
            _ if source == b => (Side::B, a),
            _ => return Err(DropReason::WrongSource),
        };
        let leg = &mut self.legs[side.index()];
        leg.last_seen = now;
        leg.packets += u64::from(packets);
        leg.bytes += bytes;
        Ok((to, self.legs[side.other().index()].local))
    }
}

impl Leg {
    /// A handshake may begin when it is newer than the completed one and not older than the one
    /// that has begun: a recorded bind, replayed, changes nothing.
    fn begin(&mut self, generation: Generation) -> Result<(), DropReason> {
        let begun = self.in_progress.unwrap_or_default();
        if generation <= self.completed || generation < begun {
            return Err(DropReason::StaleGeneration);
        }
        self.in_progress = Some(generation);
        Ok(())
    }

    fn complete(
        &mut self,
        generation: Generation,
        source: SocketAddr,
        local: Option<IpAddr>,
        now: Timestamp,
    ) {
        self.in_progress = None;
        self.completed = generation;
        self.address = Some(source);
        self.local = local;
        self.last_seen = now;
    }
}
