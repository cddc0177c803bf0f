//! Counters as plain numbers; the driver turns them into metrics.

use std::net::SocketAddr;

use crate::verdict::DropReason;

/// The IP version of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Internet Protocol, version 4.
    V4,
    /// Internet Protocol, version 6.
    V6,
}

impl Family {
    /// Both versions, in the order of indices.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The IP version of an address.
    pub const fn of(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

/// A number of datagrams and of their payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The number of datagrams.
    pub packets: u64,
    /// Their UDP payload in bytes, Geneve headers included.
    pub bytes: u64,
}

impl Traffic {
    /// Adds more traffic; the sums saturate.
    #[inline]
    pub(crate) const fn add(&mut self, more: Self) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Counts since a core was made; every field only grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Forwarded data by IP version in and out, indexed by [`Family`].
    pub forwarded: [[Traffic; 2]; 2],
    /// Dropped packets, indexed by [`DropReason::index`].
    pub drops: [u64; DropReason::ALL.len()],
    /// Sessions that were allocated.
    pub allocations: u64,
    /// Requests that were answered with the pair's present session.
    pub reallocations: u64,
    /// Challenges that were sent.
    pub challenges: u64,
    /// Legs that were bound for the first time.
    pub binds: u64,
    /// Legs that were bound again by a newer handshake.
    pub rebinds: u64,
    /// Sessions that ended because a client did not bind in time.
    pub expired_unbound: u64,
    /// Sessions that ended because a leg was silent.
    pub expired_silent: u64,
    /// Unbound sessions that gave way to newer ones at a limit.
    pub evicted: u64,
    /// Sessions that ended because the policy no longer allows them.
    pub revoked: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            forwarded: Default::default(),
            drops: [0; DropReason::ALL.len()],
            allocations: 0,
            reallocations: 0,
            challenges: 0,
            binds: 0,
            rebinds: 0,
            expired_unbound: 0,
            expired_silent: 0,
            evicted: 0,
            revoked: 0,
        }
    }
}

impl Counters {
    /// The data that was forwarded from one IP version to another.
    pub const fn forwarded(&self, from: Family, to: Family) -> Traffic {
        self.forwarded[from as usize][to as usize]
    }

    /// The number of packets dropped for `reason`.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Counts a packet that was dropped for `reason`, also one that never reached a core.
    pub const fn count_drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }

    /// Adds the counts of another core of the same relay.
    pub fn add(&mut self, other: &Self) {
        let Self {
            forwarded,
            drops,
            allocations,
            reallocations,
            challenges,
            binds,
            rebinds,
            expired_unbound,
            expired_silent,
            evicted,
            revoked,
        } = other;
        let cells = self.forwarded.as_flattened_mut();
        for (sum, more) in cells.iter_mut().zip(forwarded.as_flattened()) {
            sum.add(*more);
        }
        for (sum, more) in self.drops.iter_mut().zip(drops) {
            *sum += more;
        }
        self.allocations += allocations;
        self.reallocations += reallocations;
        self.challenges += challenges;
        self.binds += binds;
        self.rebinds += rebinds;
        self.expired_unbound += expired_unbound;
        self.expired_silent += expired_silent;
        self.evicted += evicted;
        self.revoked += revoked;
    }

    #[inline]
    pub(crate) fn count_forward(
        &mut self,
        from: &SocketAddr,
        to: &SocketAddr,
        packets: u32,
        bytes: u64,
    ) {
        let cell = &mut self.forwarded[Family::of(from) as usize][Family::of(to) as usize];
        cell.add(Traffic {
            packets: packets.into(),
            bytes,
        });
    }
}
