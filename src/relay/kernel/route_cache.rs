//! Ways to clients, remembered until the network changes.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::relay::netlink::{Netlink, Route};

/// Ways that are remembered.
const MOST: usize = 1 << 12;
/// Ways that are asked for again at once.
const AGAIN: usize = 64;
/// Share of the time that following changed ways may take.
const SHARE: u32 = 10;

/// From a local address, where that matters, to a client: hosts with several uplinks have rules by
/// which the first decides about the way.
type Ends = (Option<IpAddr>, IpAddr);

#[derive(Debug, Default)]
pub(super) struct RouteCache {
    cached: HashMap<Ends, Option<Route>>,
    /// What is asked for again next.
    due: Vec<Ends>,
    /// Nothing is asked for again before.
    rest: Option<Instant>,
}

impl RouteCache {
    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.cached.clear();
        self.due.clear();
    }

    /// The way, remembered or asked for.
    pub(super) fn find(
        &mut self,
        netlink: &mut Netlink,
        from: Option<IpAddr>,
        to: IpAddr,
    ) -> Option<Route> {
        if let Some(route) = self.cached.get(&(from, to)) {
            return *route;
        }
        let route = ask(netlink, (from, to));
        if self.cached.len() < MOST {
            self.cached.insert((from, to), route);
        }
        route
    }

    /// Asks for some of them again; whether one has changed. The kernel tells nobody when it has
    /// learned that a way takes less than the devices on it (RFC 1191, RFC 8201).
    pub(super) fn check(&mut self, netlink: &mut Netlink, now: Instant) -> bool {
        if self.rest.is_some_and(|rest| now < rest) {
            return false;
        }
        if self.due.is_empty() {
            self.due.extend(self.cached.keys());
        }
        let rest = self.due.len().saturating_sub(AGAIN);
        let mut changed = false;
        for ends in self.due.split_off(rest) {
            let route = ask(netlink, ends);
            changed |= self.cached.insert(ends, route) != Some(route);
        }
        changed
    }

    /// What follows from a changed way took so long, until `now`.
    pub(super) fn record_reroute(&mut self, took: Duration, now: Instant) {
        self.rest = Some(now + took * SHARE);
    }
}

fn ask(netlink: &mut Netlink, (from, to): Ends) -> Option<Route> {
    netlink.route(from, to).unwrap_or_else(|error| {
        tracing::debug!(%error, "failed to ask for a route");
        None
    })
}
