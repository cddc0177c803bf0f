//! Counts of the program.

use std::time::Duration;

use relay_proto::{DropReason, Family, Traffic};

use super::{
    abi::{self, PassReason},
    program::CounterMaps,
};

/// Time that datagrams spent in the program, sampled: one in 256 is measured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Upper bound of each bucket, and how many datagrams fell into it but into no bucket before; the
    /// last has no bound.
    pub buckets: Vec<(Option<Duration>, u64)>,
    /// Sum over all measured datagrams.
    pub sum: Duration,
}

/// Counts of the program since it was loaded first, over all relays that took it over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelCounters {
    /// Forwarded data, indexed by [`Family`].
    pub forwarded: [Traffic; 2],
    /// Datagrams (or super-packets) handed to the sockets, in the order of [`PassReason::ALL`].
    pub passed: Vec<u64>,
    /// Datagrams that the program dropped, by reason: those of unknown VNIs, those above a bandwidth
    /// limit, and handshakes above the rate that is handed on.
    pub dropped: Vec<(DropReason, u64)>,
    /// Times that another process detached the program from a device, since this process started.
    pub detached: u64,
    /// Time in the program.
    pub latency: Latency,
}

impl KernelCounters {
    /// Reads the maps, and sums up what each CPU has counted.
    pub(super) fn read(maps: &CounterMaps, detached: u64) -> Self {
        let counter = |key: u32| -> u64 {
            let values = maps.counters.get(&key, 0);
            values.map_or(0, |values| values.iter().sum())
        };
        let forwarded = |family: Family| {
            let values = maps.forwarded.get(&(family as u32), 0);
            let mut traffic = Traffic::default();
            for [packets, bytes] in values.iter().flat_map(|values| values.iter()) {
                traffic.packets += packets;
                traffic.bytes += bytes;
            }
            traffic
        };
        let buckets = (0..abi::BUCKETS).map(|bucket| {
            let bound = abi::bucket_bound(bucket).map(Duration::from_nanos);
            (bound, counter(abi::LATENCY_BUCKETS + bucket as u32))
        });
        Self {
            forwarded: Family::ALL.map(forwarded),
            passed: (0..PassReason::ALL.len() as u32).map(counter).collect(),
            dropped: (abi::DROPPED_FIRST..)
                .zip(abi::DROPPED)
                .map(|(key, reason)| (reason, counter(key)))
                .collect(),
            detached,
            latency: Latency {
                buckets: buckets.collect(),
                sum: Duration::from_nanos(counter(abi::LATENCY_SUM)),
            },
        }
    }
}
