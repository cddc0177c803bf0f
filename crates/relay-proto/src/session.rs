//! A session: one pair of clients, their handshakes, and which leg a datagram comes from.

pub(crate) mod address;
pub(crate) mod challenge;
pub(crate) mod deadline;
pub(crate) mod local_addr;
pub(crate) mod saved;
pub(crate) mod shard;
pub(crate) mod table;

use std::{net::SocketAddr, time::Duration};

use self::{address::Address, challenge::Challenges, local_addr::LocalAddrId};
use crate::{
    counters::Traffic,
    crypto::key::{Pair, Side},
    limits::Owner,
    time::Timestamp,
    verdict::DropReason,
    wire::{
        disco::{BindCommon, Generation, Message},
        geneve::Vni,
    },
};

/// A client's side of a session: its handshakes, and the address that they have proven.
#[derive(Debug, Clone, Copy, Default)]
struct Leg {
    /// The handshake that was begun last and is not completed; zero for none.
    in_progress: Generation,
    /// The greatest generation that was completed: older ones never move the leg back.
    completed: Generation,
    /// The proven address at which the client receives.
    address: Option<Address>,
    /// The relay's address at which the client reaches it.
    local: LocalAddrId,
}

/// The datagrams that came from one leg.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// Time of the last datagram.
    last: Timestamp,
    /// Data datagrams and their UDP payload, Geneve headers included.
    traffic: Traffic,
}

/// The outcome of a bind message.
pub(crate) enum Handshake {
    /// The relay must reply with this challenge.
    Challenge(BindCommon),
    /// The leg is bound for the first time.
    Bound,
    /// The leg was bound before and is now bound by a newer handshake.
    Rebound,
}

/// A pair of clients with an allocated VNI.
///
/// There may be a million of them, so a session takes three cache lines, of which data needs the
/// first two.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Session {
    pub(crate) vni: Vni,
    legs: [Leg; 2],
    /// The node that asked for the session and whose limit it counts against.
    pub(crate) owner: Owner,
    heard: [Heard; 2],
    pub(crate) lamport: u64,
    pub(crate) allocated: Timestamp,
    pub(crate) pair: Pair,
}

const _: () = assert!(size_of::<Option<Session>>() == 192);

impl Session {
    /// A session that neither client has bound.
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

    /// The address that the client on `side` has bound.
    pub(crate) fn address(&self, side: Side) -> Option<SocketAddr> {
        self.legs[side.index()].address.map(SocketAddr::from)
    }

    /// The addresses of both clients and the local addresses that they reached, once both are bound.
    pub(crate) fn open_legs(&self) -> Option<([SocketAddr; 2], [LocalAddrId; 2])> {
        let [a, b] = [self.address(Side::A), self.address(Side::B)];
        Some(([a?, b?], self.legs.map(|leg| leg.local)))
    }

    /// The local address through which the client on `side` is bound.
    #[inline]
    pub(crate) const fn local(&self, side: Side) -> LocalAddrId {
        self.legs[side.index()].local
    }

    /// The data that came from the client on `side`.
    pub(crate) const fn traffic(&self, side: Side) -> Traffic {
        self.heard[side.index()].traffic
    }

    /// Returns whether both legs are bound.
    pub(crate) const fn is_open(&self) -> bool {
        self.legs[0].address.is_some() && self.legs[1].address.is_some()
    }

    /// The time at which the session ends if nothing more is heard.
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
        // The Geneve header is not sealed: a bind of one session could be sent with the VNI of another.
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
            // An answer that is replayed finds no handshake in progress.
            in_progress: Generation::default(),
            completed: common.generation,
            address: Address::of(source),
            local,
        };
        // A leg that has sent no data yet has the whole lifetime for it.
        self.heard[side.index()].last = now;
        Ok(if rebound {
            Handshake::Rebound
        } else {
            Handshake::Bound
        })
    }

    /// Records that another data path heard from the leg on `side`, last at `last`.
    pub(crate) fn record_heard(&mut self, side: Side, last: Timestamp) {
        let heard = &mut self.heard[side.index()];
        heard.last = heard.last.max(last);
    }

    /// Counts data from `source`; returns the address of the other leg and the local address from
    /// which the data must leave.
    #[inline]
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

    /// The side of the leg at `source`, and the address of the other leg.
    #[inline]
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
    /// Begins a handshake that is newer than the completed one and not older than the one in
    /// progress: a recorded bind that is replayed changes nothing.
    fn begin(&mut self, generation: Generation) -> Result<(), DropReason> {
        // Equal to the one in progress is no replay: a client sends its bind to each address of the
        // relay, with one generation (`relayManager.handshakeServerEndpoint`). Go accepts older ones
        // too, so whoever has recorded a bind can keep a client from finishing its handshakes there.
        if generation <= self.completed || generation < self.in_progress {
            return Err(DropReason::StaleGeneration);
        }
        self.in_progress = generation;
        Ok(())
    }
}
