//! The CPU on which a thread runs.

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

/// Keeps the calling thread, and every process it starts from now on, on one CPU: what they send
/// each other on loopback then arrives in the order in which it was sent.
pub(crate) fn stay_on_one_cpu() -> Result<()> {
    let mut set = CpuSet::new();
    set.set(sched_getcpu());
    sched_setaffinity(None, &set).context("failed to stay on a CPU")
}
