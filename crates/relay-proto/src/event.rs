//! Reports of a core: changes of sessions, and descriptions of sessions.

use std::net::{IpAddr, SocketAddr};

use crate::{counters::Traffic, crypto::key::DiscoPublic, time::Timestamp, wire::geneve::Vni};

/// A change of a session, read with [`Core::poll_event`](crate::Core::poll_event).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Both legs of a session are bound: data flows between these addresses.
    Opened {
        /// The VNI of the session.
        vni: Vni,
        /// Addresses of leg A and leg B.
        legs: [SocketAddr; 2],
        /// The local address through which each leg was bound, if the driver named it.
        locals: [Option<IpAddr>; 2],
    },
    /// A leg of an open session moved.
    Moved {
        /// The VNI of the session.
        vni: Vni,
        /// Addresses of leg A and leg B.
        legs: [SocketAddr; 2],
        /// The local address through which each leg was bound, if the driver named it.
        locals: [Option<IpAddr>; 2],
    },
    /// A session has ended; its VNI is free.
    Closed {
        /// The VNI of the session.
        vni: Vni,
        /// The reason why it ended.
        reason: CloseReason,
    },
}

/// The reason why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// At least one client did not bind in time.
    Unbound,
    /// A leg was silent for too long.
    Silent,
    /// The session gave way to a newer one at a limit.
    Evicted,
    /// The policy no longer lets the session's node use this relay.
    Revoked,
}

/// A session, as a person who operates the relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionInfo {
    /// The VNI of the session.
    pub vni: Vni,
    /// The session's LamportID, which orders allocations.
    pub lamport: u64,
    /// The time of the allocation.
    pub allocated: Timestamp,
    /// Both legs, leg A first.
    pub legs: [LegInfo; 2],
}

/// A leg of a [`SessionInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegInfo {
    /// The disco key of the client.
    pub client: DiscoPublic,
    /// The address that the client has bound.
    pub address: Option<SocketAddr>,
    /// The local address through which the leg was bound, if the driver named it.
    pub local: Option<IpAddr>,
    /// The number of data datagrams received from the client.
    pub packets: u64,
    /// The UDP payload of these datagrams, in bytes.
    pub bytes: u64,
}

impl SessionInfo {
    /// Adds the data that another data path forwarded from leg A and leg B.
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

/// The data that another data path forwarded from one leg since the session was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Data datagrams and their UDP payload, Geneve header included.
    pub traffic: Traffic,
    /// Time of the last datagram; [`Timestamp::START`] for none.
    pub last_seen: Timestamp,
}

/// The number of sessions by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Sessions that are allocated and not bound on both legs.
    pub connecting: usize,
    /// Sessions that are bound on both legs.
    pub open: usize,
}
