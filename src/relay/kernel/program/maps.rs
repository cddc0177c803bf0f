//! The maps of the program.

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
};
use relay_proto::VniFilter;

use super::{
    super::{
        abi::{AddressKey, ConfigValue, SightingKey, TrafficValue},
        egress::EgressTable,
        entries::Entries,
    },
    error::LoadError,
};

/// Names of the maps, as `maps.bpf.h` has them. They are also the names of the pinned files: a relay
/// that finds another set of names, or other sizes, removes what its predecessor left. A map whose values
/// get another meaning and keep their size gets another name.
pub(super) const MAPS: [&str; 12] = [
    "SESSIONS4",
    "SESSIONS6",
    "EXITS",
    "LOCALS",
    "ADDRESSES",
    "SIGHTINGS",
    "CONFIG",
    "DEBT",
    "KNOWN",
    "COUNTERS",
    "FORWARDED",
    "SCRATCH",
];

/// Maps that the relay writes, and from which the program decides.
pub(in crate::relay::kernel) struct Maps {
    pub(in crate::relay::kernel) entries: Entries,
    pub(in crate::relay::kernel) egresses: EgressTable,
    /// Key of each local address.
    pub(in crate::relay::kernel) locals: HashMap<MapData, AddressKey, u32>,
    /// Local address of each key.
    pub(in crate::relay::kernel) addresses: Array<MapData, AddressKey>,
    /// Datagrams that the program has seen. The values mean nothing.
    pub(in crate::relay::kernel) sightings: HashMap<MapData, SightingKey, u32>,
    pub(in crate::relay::kernel) config: Array<MapData, ConfigValue>,
    /// Theoretical arrival time (GCRA) of the relay's bandwidth limit; shared memory.
    pub(in crate::relay::kernel) relay_tat: MapData,
    /// Filter of VNIs that have a session; shared memory.
    pub(in crate::relay::kernel) vni_filter: MapData,
}

/// Maps in which the program counts.
pub(in crate::relay::kernel) struct CounterMaps {
    pub(in crate::relay::kernel) counters: PerCpuArray<MapData, u64>,
    pub(in crate::relay::kernel) forwarded: PerCpuArray<MapData, TrafficValue>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            entries: Entries::new(take(ebpf, "SESSIONS4")?, take(ebpf, "SESSIONS6")?)?,
            egresses: EgressTable::new(take(ebpf, "EXITS")?.try_into()?),
            locals: take(ebpf, "LOCALS")?.try_into()?,
            addresses: take(ebpf, "ADDRESSES")?.try_into()?,
            sightings: take(ebpf, "SIGHTINGS")?.try_into()?,
            config: take(ebpf, "CONFIG")?.try_into()?,
            relay_tat: take_array(ebpf, "DEBT")?,
            vni_filter: take_array(ebpf, "KNOWN")?,
        })
    }

    /// Number of 64-bit words in the filter of VNIs.
    pub(in crate::relay::kernel) fn vni_filter_words(&self) -> Result<u32, MapError> {
        Ok(self.vni_filter.info()?.max_entries())
    }
}

impl CounterMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            counters: take(ebpf, "COUNTERS")?.try_into()?,
            forwarded: take(ebpf, "FORWARDED")?.try_into()?,
        })
    }
}

/// Entries of a map whose size depends on the most sessions of the relay; `None` for all other maps.
pub(super) fn capacity(map: &str, sessions: u32) -> Option<u32> {
    match map {
        "SESSIONS4" | "SESSIONS6" => Some(sessions),
        "KNOWN" => Some(known_words(sessions)),
        _ => None,
    }
}

/// Words of the filter of VNIs for so many sessions.
fn known_words(sessions: u32) -> u32 {
    let words = VniFilter::words(sessions as usize);
    u32::try_from(words).expect("VNIs have 24 bits")
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::NoMap(name))
}

fn take_array(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match take(ebpf, name)? {
        Map::Array(data) => Ok(data),
        _ => Err(LoadError::NoArray(name)),
    }
}
