//! Devices and local addresses of the host, and attachments to devices.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::atomic::Ordering,
    time::Instant,
};

use super::{
    super::{
        abi::{self, AddressKey},
        availability::{Attached, PathState, Unavailable, UnavailableReason},
    },
    Manager, WATCHDOG,
};
use crate::relay::netlink::{Device, DeviceAddress};

/// Keys of local addresses; 0 is none.
const LOCALS: std::ops::Range<u32> = 1..1024;

impl Manager {
    /// Reads devices and addresses from the kernel, and gives each address a key.
    pub(super) fn refresh_addresses(&mut self) -> io::Result<()> {
        self.devices = self.netlink.devices()?;
        // A device that is down receives nothing. Its addresses are those of another program that takes their
        // packets, such as IPVS (kube-ipvs0).
        let up = self.devices.values().filter(|device| device.up);
        let addresses = up.flat_map(|device| &device.addresses);
        let wanted: BTreeSet<AddressKey> = addresses
            .filter(|address| address.is_global())
            .map(|address| abi::address_key(address.ip))
            .collect();
        let gone = self
            .locals
            .extract_if(.., |address, _| !wanted.contains(address));
        for (gone, key) in gone {
            self.maps.locals.remove(&gone).ok();
            self.maps.addresses.set(key, [0; 16], 0).ok();
        }
        for new in wanted {
            if !self.locals.contains_key(&new) {
                self.add_local(new);
            }
        }
        Ok(())
    }

    /// Gives an address a key. One that comes back has the key that it had: sessions name it.
    fn add_local(&mut self, address: AddressKey) {
        if self.assigned_keys.len() == LOCALS.len() {
            self.assigned_keys
                .retain(|address, _| self.locals.contains_key(address));
        }
        let assigned: BTreeSet<u32> = self.assigned_keys.values().copied().collect();
        let previous = self.assigned_keys.get(&address).copied();
        let free = || LOCALS.into_iter().find(|key| !assigned.contains(key));
        let Some(key) = previous.or_else(free) else {
            return tracing::debug!("no room for a local address; the sockets serve it");
        };
        let written = self.maps.addresses.set(key, address, 0);
        match written.and_then(|()| self.maps.locals.insert(address, key, 0)) {
            Ok(()) => {
                self.locals.insert(address, key);
                self.assigned_keys.insert(address, key);
            }
            Err(error) => tracing::debug!(%error, "no room for a local address"),
        }
    }

    /// Attaches to the devices that carry the port, once the program has passed its self-test.
    pub(super) fn attach(&mut self) {
        // This writes the port too, which the program must have when it is attached.
        self.renew(WATCHDOG);
        if self.config.port == 0 {
            return self.publish(PathState::default());
        }
        if self.tested.is_none() {
            let tested = self.test();
            self.tested = Some(tested);
        }
        if let Some(Err(error)) = self.tested.clone() {
            return self.give_up(error);
        }
        let (devices, waiting) = self.devices_to_attach(Instant::now());
        let mut errors = self.program.attach(&devices).into_iter();
        let attached = self.program.attached();
        if attached > 0 {
            for error in errors {
                let Unavailable { message, .. } = error.into();
                tracing::warn!(problem = message, "only the sockets serve a device");
            }
            return self.publish(PathState(Ok(Attached {
                devices: attached,
                unpinned: self.program.unpinned(),
            })));
        }
        self.publish(PathState(Err(match (errors.next(), waiting) {
            (Some(error), _) => error.into(),
            (None, Some(device)) => Unavailable::new(
                UnavailableReason::Detached,
                format!(
                    "another process has detached the relay's program from {device} again and again: \
                     find it with `bpftool net`; attaching is retried"
                ),
            ),
            (None, None) => Unavailable::new(
                UnavailableReason::NoDevice,
                "no Ethernet device of this host has an address",
            ),
        })));
    }

    /// The devices that carry the port and may be attached to now, by index, and the name of one that
    /// must wait because it was lost.
    fn devices_to_attach(&mut self, now: Instant) -> (BTreeMap<u32, String>, Option<String>) {
        let carries = |device: &Device| {
            device.ethernet
                && device.up
                && !device.loopback
                && device.addresses.iter().any(DeviceAddress::is_global)
        };
        self.reattach
            .retain(|index| self.devices.contains_key(&index));
        self.reattach_at = self.reattach.due(now);
        let devices = self.devices.iter().filter(|(_, device)| carries(device));
        let devices = devices.map(|(index, device)| (*index, device.name.clone()));
        let (ready, waiting): (BTreeMap<_, _>, BTreeMap<_, _>) =
            devices.partition(|(index, _)| self.reattach.allows(*index, now));
        (ready, waiting.into_values().next())
    }

    /// Attaches again where another process has detached the program; until then the sockets forward.
    /// Also checks some routes, as the kernel does not report all of their changes.
    pub(super) fn watch(&mut self, now: Instant) {
        let lost = self.program.lost(&mut self.netlink);
        for index in &lost {
            self.program.forget(*index);
            let wait = self.reattach.lose(*index, now);
            let device = self.devices.get(index).map(|device| &device.name);
            tracing::warn!(
                ?device,
                again_in = ?wait,
                "another process has detached the relay's program; the sockets forward until it is \
                 attached again"
            );
        }
        if !lost.is_empty() || self.reattach_at.is_some_and(|at| at <= now) {
            self.attach();
        }
        let count = lost.len() as u64;
        self.detached.fetch_add(count, Ordering::Relaxed);
        if self.rounds.is_running() {
            return;
        }
        match self.routes.check(&mut self.netlink, now) {
            true => self.begin_round(),
            false => self.place_waiting(),
        }
    }
}
