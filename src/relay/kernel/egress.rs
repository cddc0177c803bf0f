//! Egresses: how datagrams leave this host. There are few of them, so an entry of a session names
//! each by a short number.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use aya::maps::{Array, MapData};

use super::abi::address_key;

/// Encoded egress, as `maps.bpf.h` has it.
pub(super) type EgressValue = [u8; 24];

/// Number of keys, with the first, which stands for no egress (`EXIT_COUNT` in `maps.bpf.h`).
const EGRESS_COUNT: u32 = 1024;
/// Key of the egress without device and local address.
pub(super) const NONE: u16 = 0;

/// Device, local address and router.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Egress {
    /// Index of the device; 0 for none.
    pub(super) ifindex: u32,
    /// Key of the local address that the client knows the relay by; 0 when that is not known.
    pub(super) local: u16,
    /// Router that comes next; `None` when the device's link leads to the client.
    pub(super) gateway: Option<IpAddr>,
}

/// Egresses that the program knows, by key.
pub(super) struct EgressTable {
    map: Array<MapData, EgressValue>,
    entries: Vec<Option<Egress>>,
    /// Keys that were asked for since the round through all entries began.
    used: BTreeSet<u16>,
}

impl EgressTable {
    /// Reads the egresses that an earlier process has entered.
    pub(super) fn new(map: Array<MapData, EgressValue>) -> Self {
        let read = |key| {
            let value = map.get(&key, 0).ok()?;
            (value != [0; size_of::<EgressValue>()]).then(|| Egress::decode(&value))
        };
        let previous = (1..EGRESS_COUNT).map(read);
        let entries = std::iter::once(Some(Egress::default()))
            .chain(previous)
            .collect();
        Self {
            map,
            entries,
            used: BTreeSet::new(),
        }
    }

    /// The egress with this key.
    pub(super) fn get(&self, key: u16) -> Option<Egress> {
        *self.entries.get(usize::from(key))?
    }

    /// Key of an egress, which is entered if it is new; `None` when there is no room.
    pub(super) fn key(&mut self, egress: Egress) -> Option<u16> {
        let present = self.entries.iter().position(|entry| *entry == Some(egress));
        let key = match present {
            Some(key) => key,
            None => {
                let key = self.entries.iter().position(Option::is_none)?;
                self.map.set(key as u32, egress.encode(), 0).ok()?;
                self.entries[key] = Some(egress);
                key
            }
        };
        let key = u16::try_from(key).ok()?;
        self.used.insert(key);
        Some(key)
    }

    /// Begins a round, in which each entry of a session asks for its egresses again.
    pub(super) fn begin_round(&mut self) {
        self.used.clear();
    }

    /// Forgets the egresses for which no entry has asked in the round.
    pub(super) fn end_round(&mut self) {
        for (key, entry) in (0..).zip(&mut self.entries) {
            // The value stays in the map until the key is given again: no entry leads to it.
            if key != NONE && !self.used.contains(&key) {
                *entry = None;
            }
        }
    }
}

impl Egress {
    fn encode(self) -> EgressValue {
        let mut value = [0; size_of::<EgressValue>()];
        value[..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        value[4..8].copy_from_slice(&u32::from(self.local).to_ne_bytes());
        if let Some(gateway) = self.gateway {
            value[8..].copy_from_slice(&address_key(gateway));
        }
        value
    }

    fn decode(value: &EgressValue) -> Self {
        let number = |at: usize| {
            let bytes = value[at..].first_chunk().expect("the value is that long");
            u32::from_ne_bytes(*bytes)
        };
        let gateway = value[8..].first_chunk().expect("the value is that long");
        let gateway = Ipv6Addr::from(*gateway);
        Self {
            ifindex: number(0),
            local: number(4) as u16,
            gateway: (!gateway.is_unspecified()).then(|| IpAddr::V6(gateway).to_canonical()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn egress_round_trips() {
        for gateway in [None, Some("192.0.2.9"), Some("fe80::9")] {
            let egress = Egress {
                ifindex: 0x0102_0304,
                local: 0x0506,
                gateway: gateway.map(|ip| ip.parse().unwrap()),
            };
            assert_eq!(Egress::decode(&egress.encode()), egress);
        }
    }
}
