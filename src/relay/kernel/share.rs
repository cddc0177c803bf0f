//! Memory of the program's maps that the cores of the relay share with it.

use std::sync::atomic::AtomicU64;

use relay_proto::{ClockedTat, SharedTat, SharedVnis, Timestamp};

use super::{KernelPath, sys};

/// Memory of the maps that the cores read and write: the TAT of the relay's bandwidth limit, and the filter
/// of VNIs. It stays mapped for as long as the process lives.
#[derive(Debug, Clone, Copy)]
pub struct KernelShare {
    tat: Option<&'static AtomicU64>,
    /// CLOCK_MONOTONIC less the relay's time, in nanoseconds.
    offset: u64,
    vnis: &'static [AtomicU64],
}

impl KernelPath {
    /// The memory for cores whose time is `now`.
    pub fn share(&self, now: Timestamp) -> KernelShare {
        KernelShare {
            tat: self.0.relay_tat,
            offset: sys::monotonic_ns().wrapping_sub(now.as_nanos()),
            vnis: self.0.vnis,
        }
    }
}

impl SharedTat for KernelShare {
    fn shared_tat(&self) -> Option<ClockedTat<'_>> {
        let offset = self.offset;
        self.tat.map(|tat| ClockedTat { tat, offset })
    }
}

impl SharedVnis for KernelShare {
    fn shared_vnis(&self) -> Option<&[AtomicU64]> {
        Some(self.vnis)
    }
}
