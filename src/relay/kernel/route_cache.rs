//! Routes to clients, cached until the network changes.

use std::{
    collections::HashMap,
    mem,
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::relay::netlink::{Netlink, Route};

/// Most routes in the cache.
const MAX_ROUTES: usize = 1 << 12;
/// Most routes that one check asks for again.
const MAX_CHECKS: usize = 64;
/// Following changed routes takes at most one part in so many of the time.
const REST_FACTOR: u32 = 10;

/// Local address, where it matters, and address of a client. On hosts with several uplinks, routing
/// rules choose the route by the local address.
type Ends = (Option<IpAddr>, IpAddr);

#[derive(Debug, Default)]
pub(super) struct RouteCache {
    cached: HashMap<Ends, Option<Route>>,
    /// Routes that the next checks ask for again.
    due: Vec<Ends>,
    /// Set while a change that a check has found is followed.
    is_followed: bool,
    /// Time before which no check asks again.
    rest: Option<Instant>,
}

impl RouteCache {
    /// Forgets all routes.
    pub(super) fn clear(&mut self) {
        self.cached.clear();
        self.due.clear();
        self.is_followed = false;
    }

    /// The route, from the cache or from the kernel.
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
        // A route that is not cached is asked for each time, and its changes are not noticed by
        // `check`.
        if self.cached.len() < MAX_ROUTES {
            self.cached.insert((from, to), route);
        }
        route
    }

    /// Asks the kernel for some routes again; returns whether one has changed. The kernel reports
    /// no change when path MTU discovery has lowered the MTU of a route (RFC 1191, RFC 8201).
    pub(super) fn check(&mut self, netlink: &mut Netlink, now: Instant) -> bool {
        if self.rest.is_some_and(|rest| now < rest) {
            return false;
        }
        if self.due.is_empty() {
            self.due.extend(self.cached.keys());
        }
        let rest = self.due.len().saturating_sub(MAX_CHECKS);
        let mut changed = false;
        for ends in self.due.split_off(rest) {
            let route = ask(netlink, ends);
            changed |= self.cached.insert(ends, route) != Some(route);
        }
        self.is_followed |= changed;
        changed
    }

    /// Records the time that it took to follow changed routes, until `now`. If a check has found the
    /// change, the next one waits in proportion.
    pub(super) fn record_reroute(&mut self, took: Duration, now: Instant) {
        if mem::take(&mut self.is_followed) {
            self.rest = Some(now + took * REST_FACTOR);
        }
    }
}

fn ask(netlink: &mut Netlink, (from, to): Ends) -> Option<Route> {
    netlink.route(from, to).unwrap_or_else(|error| {
        // As if no route led there: the sockets then forward the session.
        tracing::debug!(%error, "failed to ask for a route");
        None
    })
}
