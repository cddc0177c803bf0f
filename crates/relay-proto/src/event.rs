//! What a relay tells: changes of sessions, and the sessions themselves.

use std::net::{IpAddr, SocketAddr};

use crate::{counters::Traffic, crypto::key::DiscoPublic, time::Timestamp, wire::geneve::Vni};

/// What changed; read with [`crate::Relay::poll_event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Both legs are bound: data flows between these addresses.
    Opened {
        /// The session.
        vni: Vni,
        /// Leg A and leg B.
        legs: [SocketAddr; 2],
        /// Local address that each was bound through, where the driver said.
        locals: [Option<IpAddr>; 2],
    },
    /// A leg of an open session moved.
    Moved {
        /// The session.
        vni: Vni,
        /// Leg A and leg B.
        legs: [SocketAddr; 2],
        /// Local address that each was bound through, where the driver said.
        locals: [Option<IpAddr>; 2],
    },
    /// The session is gone and its VNI with it.
    Closed {
        /// The session.
        vni: Vni,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Not both clients bound in time.
    Unbound,
    /// A leg was silent for too long.
    Silent,
    /// It gave way at a limit.
    Evicted,
    /// The policy no longer lets the node that asked for it use this relay.
    Revoked,
}

/// One session, as an operator of the relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// Number of the session.
    pub vni: Vni,
    /// Order of allocation.
    pub lamport: u64,
    /// When it was allocated.
    pub allocated: Timestamp,
    /// Leg A and leg B.
    pub legs: [LegInfo; 2],
}

/// One leg of a [`SessionInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegInfo {
    /// The client.
    pub client: DiscoPublic,
    /// Where it is bound.
    pub address: Option<SocketAddr>,
    /// Local address that it was bound through, where the driver said.
    pub local: Option<IpAddr>,
    /// Data datagrams received from it.
    pub packets: u64,
    /// UDP payload of these.
    pub bytes: u64,
}

impl SessionInfo {
    /// Adds what another path forwarded from leg A and leg B.
    pub const fn add(&mut self, [a, b]: [Activity; 2]) {
        self.legs[0].add(a.traffic);
        self.legs[1].add(b.traffic);
    }
}

impl LegInfo {
    const fn add(&mut self, traffic: Traffic) {
        self.packets = self.packets.saturating_add(traffic.packets);
        self.bytes = self.bytes.saturating_add(traffic.bytes);
    }
}

/// What another data path forwarded from one leg since the session is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Data datagrams and their UDP payload, Geneve header included.
    pub traffic: Traffic,
    /// The last one; [`Timestamp::START`] for none.
    pub last_seen: Timestamp,
}

/// Number of sessions by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Allocated, not bound on both legs.
    pub connecting: usize,
    /// Bound on both legs.
    pub open: usize,
}
