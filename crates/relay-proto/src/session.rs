//! One session: two clients, their handshakes, and which address is whose.

pub(crate) mod address;
pub(crate) mod deadline;
pub(crate) mod local_addr;
pub(crate) mod shard;
pub(crate) mod table;
pub(crate) mod vni_filter;

use std::{net::SocketAddr, time::Duration};

use crate::{
    counters::Traffic,
    crypto::challenge::Challenges,
    crypto::key::{NodeKey, Pair, Side},
    limits::Owner,
    session::address::Address,
    session::local_addr::{LocalAddrId, LocalAddrTable},
    state::{SavedLeg, SavedSession},
    time::Timestamp,
    verdict::DropReason,
    wire::disco::{BindCommon, Generation, Message},
    wire::geneve::Vni,
};

/// One client's half of a session.
#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    /// Handshake that was begun last and is not completed; zero for none.
    in_progress: Generation,
    /// Greatest generation that was completed: older ones never move the leg back.
    completed: Generation,
    /// Where the client receives, once proven.
    address: Option<Address>,
    /// Which of the relay's addresses the client knows it by.
    local: LocalAddrId,
}

/// What came from one leg.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// Last datagram.
    last: Timestamp,
    /// Data datagrams, and their UDP payload with Geneve headers.
    traffic: Traffic,
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

/// A pair of clients with an allocated VNI. There may be a million: three cache lines each, of
/// which data needs the first two.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Session {
    pub(crate) vni: Vni,
    legs: [Leg; 2],
    /// Who asked for it, and whose limit it counts against.
    pub(crate) owner: Owner,
    heard: [Heard; 2],
    pub(crate) lamport: u64,
    pub(crate) allocated: Timestamp,
    pub(crate) pair: Pair,
}

const _: () = assert!(size_of::<Option<Session>>() == 192);

impl Session {
    pub(crate) fn new(vni: Vni, lamport: u64, pair: Pair, owner: Owner, now: Timestamp) -> Self {
        Self {
            vni,
            lamport,
            pair,
            owner,
            allocated: now,
            legs: [Leg::default(); 2],
            heard: [Heard::default(); 2],
        }
    }

    /// The session as of `now`; it belongs to `node`.
    pub(crate) fn save(
        &self,
        node: NodeKey,
        locals: &LocalAddrTable,
        now: Timestamp,
    ) -> SavedSession {
        SavedSession {
            vni: self.vni,
            lamport: self.lamport,
            pair: self.pair,
            owner: node,
            age: now.since(self.allocated),
            legs: [Side::A, Side::B].map(|side| {
                let (leg, heard) = (self.legs[side.index()], self.heard[side.index()]);
                SavedLeg {
                    in_progress: leg.in_progress,
                    completed: leg.completed,
                    address: self.address(side),
                    local: locals.address(leg.local),
                    silent: now.since(heard.last),
                    packets: heard.traffic.packets,
                    bytes: heard.traffic.bytes,
                }
            }),
        }
    }

    /// The session that was saved, and belongs to `owner`.
    pub(crate) fn restore(
        saved: &SavedSession,
        owner: Owner,
        locals: &mut LocalAddrTable,
        now: Timestamp,
    ) -> Self {
        Self {
            vni: saved.vni,
            lamport: saved.lamport,
            pair: saved.pair,
            owner,
            allocated: now.before(saved.age),
            legs: saved.legs.map(|leg| Leg {
                in_progress: leg.in_progress,
                completed: leg.completed,
                address: leg.address.and_then(Address::of),
                local: locals.number(leg.local),
            }),
            heard: saved.legs.map(|leg| Heard {
                last: now.before(leg.silent),
                traffic: Traffic {
                    packets: leg.packets,
                    bytes: leg.bytes,
                },
            }),
        }
    }

    /// Where the client on `side` is bound.
    pub(crate) fn address(&self, side: Side) -> Option<SocketAddr> {
        self.legs[side.index()].address.map(SocketAddr::from)
    }

    /// Where both are bound, and through which local addresses, once the session is open.
    pub(crate) fn open(&self) -> Option<([SocketAddr; 2], [LocalAddrId; 2])> {
        let [a, b] = [self.address(Side::A), self.address(Side::B)];
        Some(([a?, b?], self.legs.map(|leg| leg.local)))
    }

    /// Local address that the client on `side` was bound through.
    pub(crate) const fn local(&self, side: Side) -> LocalAddrId {
        self.legs[side.index()].local
    }

    /// What came from the client on `side`.
    pub(crate) const fn traffic(&self, side: Side) -> Traffic {
        self.heard[side.index()].traffic
    }

    /// Both legs are bound.
    pub(crate) const fn is_open(&self) -> bool {
        self.legs[0].address.is_some() && self.legs[1].address.is_some()
    }

    /// When the session ends if nothing more is heard.
    pub(crate) fn deadline(&self, bind: Duration, steady: Duration) -> Timestamp {
        if self.is_open() {
            self.heard[0].last.min(self.heard[1].last) + steady
        } else {
            self.allocated + bind
        }
    }

    /// Handles a bind message that the client on `side` sealed.
    pub(crate) fn handshake(
        &mut self,
        side: Side,
        message: &Message,
        (source, local): (SocketAddr, LocalAddrId),
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
        if leg.in_progress != common.generation || leg.in_progress == Generation::default() {
            return Err(DropReason::StaleGeneration);
        }
        if !challenges.verify(common, source) {
            return Err(DropReason::BadChallenge);
        }
        let rebound = leg.address.is_some();
        *leg = Leg {
            in_progress: Generation::default(),
            completed: common.generation,
            address: Address::of(source),
            local,
        };
        self.heard[side.index()].last = now;
        Ok(if rebound {
            Handshake::Rebound
        } else {
            Handshake::Bound
        })
    }

    /// Another path heard from the leg on `side`, last then.
    pub(crate) fn record_heard(&mut self, side: Side, last: Timestamp) {
        let heard = &mut self.heard[side.index()];
        heard.last = heard.last.max(last);
    }

    /// Accounts data from `source` and names the leg it goes to, and the local address it leaves
    /// from.
    pub(crate) fn forward(
        &mut self,
        source: SocketAddr,
        packets: u32,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(SocketAddr, LocalAddrId), DropReason> {
        let (side, to) = self.route(source)?;
        let heard = &mut self.heard[side.index()];
        heard.last = now;
        heard.traffic.add(Traffic {
            packets: packets.into(),
            bytes,
        });
        Ok((to.into(), self.local(side.other())))
    }

    /// From which leg `source` is, and the address of the other.
    pub(crate) fn route(&self, source: SocketAddr) -> Result<(Side, Address), DropReason> {
        let [Some(a), Some(b)] = [self.legs[0].address, self.legs[1].address] else {
            return Err(DropReason::NotBound);
        };
        match Address::of(source) {
            Some(source) if source == a => Ok((Side::A, b)),
            Some(source) if source == b => Ok((Side::B, a)),
            _ => Err(DropReason::WrongSource),
        }
    }
}

impl Leg {
    /// A handshake may begin when it is newer than the completed one and not older than the one
    /// that has begun: a recorded bind, replayed, changes nothing.
    fn begin(&mut self, generation: Generation) -> Result<(), DropReason> {
        if generation <= self.completed || generation < self.in_progress {
            return Err(DropReason::StaleGeneration);
        }
        self.in_progress = generation;
        Ok(())
    }
}
