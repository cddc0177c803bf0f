//! The interface of a relay under comparison, in the terms that both relays share.

use std::ops::{Index, IndexMut};

use anyhow::Result;
use relay_proto::{DiscoPublic, DropReason, Vni};

/// One of the two relays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Which {
    /// Tailscale's, `net/udprelay`.
    Go,
    /// Ours, `relay-proto`.
    Ours,
}

impl Which {
    /// Both relays, the reference first.
    pub const ALL: [Self; 2] = [Self::Go, Self::Ours];
}

/// A value of each relay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Both<T>([T; 2]);

impl<T> Both<T> {
    /// Makes a value for each relay.
    pub fn of(each: impl FnMut(Which) -> Result<T>) -> Result<Self> {
        let [go, ours] = Which::ALL.map(each);
        Ok(Self([go?, ours?]))
    }
}

impl<T> From<[T; 2]> for Both<T> {
    /// Takes Go's value, then ours.
    fn from(each: [T; 2]) -> Self {
        Self(each)
    }
}

impl<T> Index<Which> for Both<T> {
    type Output = T;

    fn index(&self, which: Which) -> &T {
        &self.0[which as usize]
    }
}

impl<T> IndexMut<Which> for Both<T> {
    fn index_mut(&mut self, which: Which) -> &mut T {
        &mut self.0[which as usize]
    }
}

/// The reaction of a relay to a datagram or a request.
#[derive(Debug)]
pub struct Reaction<T> {
    /// The datagrams or the answer that the relay sent.
    pub sent: T,
    /// The reason why the relay sent nothing, if it reports one.
    pub reason: Option<DropReason>,
}

/// A datagram that arrived somewhere.
#[derive(Debug)]
pub struct Arrival {
    /// The place where it arrived.
    pub place: usize,
    /// The UDP payload that arrived.
    pub datagram: Vec<u8>,
}

/// The state of one leg of a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LegState {
    /// The place to which the leg is bound.
    pub place: Option<usize>,
    /// Data datagrams that came from it.
    pub packets: u64,
    /// Their UDP payload.
    pub bytes: u64,
}

/// A relay that can be requested and inspected.
pub trait Subject {
    /// The disco key that requests are sealed for.
    fn node(&self) -> DiscoPublic;

    /// Gives it a request of the node number `node`, as from DERP.
    fn allocate(&mut self, node: u8, request: &[u8]) -> Result<Reaction<Option<Vec<u8>>>>;

    /// Delivers a datagram from a place, and returns the datagrams that arrived because of it.
    fn deliver(&mut self, from: usize, datagram: &[u8]) -> Result<Reaction<Vec<Arrival>>>;

    /// The legs of a session, smaller disco key first; `None` when there is no such session.
    fn legs(&mut self, vni: Vni) -> Result<Option<[LegState; 2]>>;
}
