//! Entries of sessions, and the routes that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    super::{
        abi,
        egress::{self, Egress},
        entry::{Leg, SessionEntry, Usage},
        path::OpenSession,
    },
    Manager,
};

/// Stands for a local address that has no key: nothing is ever sent from it.
const KEYLESS: u32 = u16::MAX as u32;

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
        let key = |ip: IpAddr| self.locals.get(&abi::address_key(ip)).copied();
        let keys = open
            .locals
            .map(|ip| ip.map_or(0, |ip| key(ip).unwrap_or(KEYLESS)));
        if keys.contains(&KEYLESS) {
            self.keyless.insert(open.vni, *open);
        } else {
            self.keyless.remove(&open.vni);
        }
        let session = self.session(open.legs, keys.map(|key| key as u16));
        let present = self.maps.entries.get(open.vni.number());
        if present.is_none_or(|present| present.legs != session.legs) {
            self.replace(open.vni.number(), session);
        }
    }

    /// Makes `open` the only sessions.
    pub(super) fn retain(&mut self, open: Vec<OpenSession>) {
        let open: BTreeMap<u32, OpenSession> = open
            .into_iter()
            .map(|open| (open.vni.number(), open))
            .collect();
        self.keyless.clear();
        for vni in self.maps.entries.vnis() {
            if !open.contains_key(&vni) {
                self.maps.entries.remove(vni);
            }
        }
        for open in open.values() {
            self.place(open);
        }
    }

    /// Looks up the routes of all sessions, and replaces the entries where they have changed.
    pub(super) fn reroute(&mut self) {
        let mut used = BTreeSet::new();
        for vni in self.maps.entries.vnis() {
            let Some(old) = self.maps.entries.get(vni) else {
                continue;
            };
            let egresses = old.legs.map(|leg| self.maps.egresses.get(leg.egress));
            let locals = egresses.map(|egress| egress.unwrap_or_default().local);
            let new = self.session(old.legs.map(|leg| leg.address), locals);
            used.extend(new.legs.map(|leg| leg.egress));
            if old.legs != new.legs {
                self.replace(vni, new);
            }
        }
        // Not earlier: until they are replaced, entries name their old egresses.
        self.maps.egresses.keep(&used);
    }

    /// Replaces the entry of a session, and keeps its counts.
    fn replace(&mut self, vni: u32, session: SessionEntry) {
        // Taken out and entered again: the program counts at any moment, and an update in place would
        // overwrite what it has counted since the entry was read.
        let usage = self.maps.entries.take(vni).map(|old| old.usage);
        let usage = usage.unwrap_or_default();
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
