//! Entries of sessions, and the routes that they name.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Bound,
    time::Instant,
};

use relay_proto::Vni;

use super::{
    super::{
        abi,
        egress::{self, Egress},
        entry::{Leg, SessionEntry, Usage},
        path::OpenSession,
    },
    Manager,
    rounds::Rounds,
};

/// Stands for a local address that has no key, or through which a leg may not have come: nothing is ever sent
/// from it.
const KEYLESS: u16 = u16::MAX;
/// Sessions that wait and are looked at in one second.
const MOST_WAITING: usize = 1_024;

/// Next hop of datagrams to a client.
#[derive(Debug, Clone, Copy, Default)]
struct NextHop {
    ifindex: u32,
    /// Longest IP packet that the device and the route take.
    mtu: u16,
    /// Router that comes next; `None` when the device's link leads to the client.
    gateway: Option<IpAddr>,
}

impl Manager {
    /// Enters a session, or what has changed of it. Counts are kept, and an entry that is right stays
    /// untouched.
    pub(super) fn place(&mut self, open: &OpenSession) {
        let present = self.maps.entries.get(open.vni.number());
        let keys = [0, 1].map(|leg| self.local_key(open, leg, present.as_ref()));
        if keys.contains(&KEYLESS) {
            self.waiting.insert(open.vni, *open);
        } else {
            self.waiting.remove(&open.vni);
        }
        let session = self.session(open.legs, keys);
        if present.is_none_or(|present| present.legs != session.legs) {
            self.replace(open.vni.number(), session);
        }
    }

    /// Key of the local address through which a leg has bound; 0 if that is not known. [`KEYLESS`] while this host
    /// does not have the address, or while the program has not seen the leg with the addresses that the sockets
    /// know. Such a leg may have come through REDIRECT, DNAT or IPVS of this host. Only the sockets' datagrams go back
    /// the same way.
    fn local_key(&self, open: &OpenSession, leg: usize, present: Option<&SessionEntry>) -> u16 {
        let (address, Some(local)) = (open.legs[leg], open.locals[leg]) else {
            return 0;
        };
        let Some(&key) = self.locals.get(&abi::address_key(local)) else {
            return KEYLESS;
        };
        let key = key as u16;
        let is_present = present.is_some_and(|present| {
            let Leg {
                address: before,
                egress,
                ..
            } = present.legs[leg];
            let egress = self.maps.egresses.get(egress);
            before == address && egress.is_some_and(|egress| egress.local == key)
        });
        let seen = abi::sighting_key(open.vni.number(), address, local);
        match is_present || self.maps.sightings.get(&seen, 0).is_ok() {
            true => key,
            false => KEYLESS,
        }
    }

    /// Enters sessions anew that wait: some of them, in turn.
    pub(super) fn place_waiting(&mut self) {
        let from = self.next_waiting.map_or(Bound::Unbounded, Bound::Included);
        let rest = self.waiting.range((from, Bound::Unbounded));
        let mut due: Vec<OpenSession> =
            rest.map(|(_, open)| *open).take(MOST_WAITING + 1).collect();
        let next = (due.len() > MOST_WAITING).then(|| due.pop()).flatten();
        self.next_waiting = next.map(|open| open.vni);
        for open in due {
            self.place(&open);
        }
    }

    /// Removes a session.
    pub(super) fn remove(&mut self, vni: Vni) {
        self.maps.entries.remove(vni.number());
        self.rounds.remove(vni.number());
        self.waiting.remove(&vni);
    }

    /// Makes `open` the only sessions. Their entries are those of an earlier relay until a round enters
    /// them anew.
    pub(super) fn retain(&mut self, open: Vec<OpenSession>) {
        self.waiting = open.into_iter().map(|open| (open.vni, open)).collect();
        for vni in self.maps.entries.vnis() {
            let is_open = |vni| self.waiting.contains_key(&vni);
            if !Vni::new(vni).is_some_and(is_open) {
                self.maps.entries.remove(vni);
            }
        }
        self.rounds = Rounds::new(self.waiting.keys().map(|vni| vni.number()));
        self.begin_round();
    }

    /// Begins to look up the routes of all sessions, and to replace entries where they have changed.
    pub(super) fn begin_round(&mut self) {
        self.rounds.begin();
        self.maps.egresses.begin_round();
    }

    /// Visits some entries, if a round has not ended.
    pub(super) fn visit_part(&mut self) {
        if !self.rounds.is_running() {
            return;
        }
        let begin = Instant::now();
        for vni in self.rounds.next_part() {
            self.visit(vni);
        }
        let now = Instant::now();
        if let Some(spent) = self.rounds.record(now - begin) {
            // Not earlier: until they are replaced, entries name their old egresses.
            self.maps.egresses.end_round();
            self.routes.record_reroute(spent, now);
        }
    }

    fn visit(&mut self, vni: u32) {
        let waiting = Vni::new(vni).and_then(|vni| self.waiting.get(&vni).copied());
        if let Some(open) = waiting {
            return self.place(&open);
        }
        let Some(old) = self.maps.entries.get(vni) else {
            return;
        };
        let egresses = old.legs.map(|leg| self.maps.egresses.get(leg.egress));
        let locals = egresses.map(|egress| egress.unwrap_or_default().local);
        let new = self.session(old.legs.map(|leg| leg.address), locals);
        if old.legs != new.legs {
            self.replace(vni, new);
        }
    }

    /// Replaces the entry of a session, and keeps its counts.
    fn replace(&mut self, vni: u32, session: SessionEntry) {
        // Taken out and entered again: the program counts at any moment, and an update in place would
        // overwrite what it has counted since the entry was read.
        let usage = self.maps.entries.take(vni).map(|old| old.usage);
        let usage = usage.unwrap_or_default();
        self.rounds.insert(vni);
        let entered = self
            .maps
            .entries
            .insert(vni, &SessionEntry { usage, ..session });
        if let Err(error) = entered {
            tracing::debug!(%error, vni, "no room in the kernel for a session; the sockets forward it");
        }
    }

    /// An entry for these addresses, and for local addresses with these keys. The program forwards it
    /// when both legs are of one IP version and a route leads to each.
    fn session(&mut self, legs: [SocketAddr; 2], locals: [u16; 2]) -> SessionEntry {
        let hops = [0, 1].map(|leg| self.next_hop(locals[leg], legs[leg].ip()));
        let forwards = legs[0].is_ipv4() == legs[1].is_ipv4() && hops.iter().all(Option::is_some);
        let legs = [0, 1].map(|leg| {
            let hop = hops[leg].filter(|_| forwards);
            self.leg(legs[leg], locals[leg], hop.unwrap_or_default())
        });
        let usage = Usage::default();
        SessionEntry { legs, usage }
    }

    fn leg(&mut self, address: SocketAddr, local: u16, hop: NextHop) -> Leg {
        let egress = Egress {
            ifindex: hop.ifindex,
            local,
            gateway: hop.gateway,
        };
        let (mtu, egress) = match self.maps.egresses.key(egress) {
            Some(key) => (hop.mtu, key),
            None => (0, egress::NONE),
        };
        Leg {
            address,
            mtu,
            egress,
        }
    }

    /// The next hop to an address, from the local address with this key. `None` when the address is this
    /// host's own, when no route leads there, or when this host does not have the local address.
    fn next_hop(&mut self, local: u16, to: IpAddr) -> Option<NextHop> {
        let from = match local {
            0 => None,
            key => Some(self.local(key)?),
        };
        let route = self.routes.find(&mut self.netlink, from, to)?;
        let device = self
            .devices
            .get(&route.ifindex)
            // A route over loopback leads to this host itself.
            .filter(|device| !device.loopback)?;
        let mtu = route.mtu.map_or(device.mtu, |mtu| mtu.min(device.mtu));
        Some(NextHop {
            ifindex: route.ifindex,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            gateway: route.gateway,
        })
    }

    /// The local address with this key, while this host has it.
    fn local(&self, key: u16) -> Option<IpAddr> {
        let address = self.maps.addresses.get(&key.into(), 0).ok()?;
        (address != [0; 16]).then(|| IpAddr::from(address).to_canonical())
    }
}
