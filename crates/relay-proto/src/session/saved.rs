//! The saved form of a session: ages in place of points in time, so that another clock reads them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Heard, Leg, Session, address::Address, local_addr::LocalAddrTable};
use crate::{
    counters::Traffic,
    crypto::key::{NodeKey, Pair, Side},
    limits::Owner,
    time::Timestamp,
    wire::{disco::Generation, geneve::Vni},
};

/// A session as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SavedSession {
    pub(crate) vni: Vni,
    pub(crate) lamport: u64,
    pub(crate) pair: Pair,
    pub(crate) owner: NodeKey,
    pub(crate) age: Duration,
    pub(crate) legs: [SavedLeg; 2],
}

/// A leg as it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SavedLeg {
    pub(crate) in_progress: Generation,
    pub(crate) completed: Generation,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) silent: Duration,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Session {
    /// The saved form at `now` of this session of `node`.
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

    /// The session that was saved, which counts against the limit of `owner`.
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
                local: locals.id(leg.local),
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
}
