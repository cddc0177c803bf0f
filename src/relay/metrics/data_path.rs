//! Of the data paths: which one forwards, and what the kernel's program has done.

use prometheus::{GaugeVec, Opts, Registry};
use relay_proto::{Family, Traffic};

use crate::registry::{counter, register};
use crate::relay::{
    kernel::{DROPPED, KernelCounters, PassReason, PathState, UnavailableReason},
    socket_path::Snapshot,
};

/// Label values of `data_path`.
pub(super) const PATHS: [&str; 2] = ["socket", "kernel"];

/// Traffic that each path of [`PATHS`] forwarded from one IP version to another.
pub(super) fn forwarded(snapshot: &Snapshot, from: Family, to: Family) -> [Traffic; 2] {
    let kernel = snapshot.kernel.as_ref().filter(|_| from == to);
    let kernel = kernel.map_or_else(Traffic::default, |kernel| kernel.forwarded[from as usize]);
    [snapshot.counters.forwarded(from, to), kernel]
}

/// All families of this file.
pub(super) fn render(registry: &Registry, path: &PathState, snapshot: &Snapshot) {
    let help = "Data path in use, and the reason if it is not the kernel path, or if that ends with the relay; 1 for \
                the data path in use.";
    let info = GaugeVec::new(Opts::new("peerrelay_data_path", help), &["path", "reason"]);
    let info = register(registry, info);
    let reason = path.shortfall().map(|shortfall| shortfall.reason);
    let value = |is: bool| f64::from(u8::from(is));
    info.with_label_values(&["kernel", ""])
        .set(value(reason.is_none()));
    for possible in UnavailableReason::ALL {
        let path = match possible {
            UnavailableReason::NotPinned => "kernel",
            _ => "socket",
        };
        info.with_label_values(&[path, possible.as_str()])
            .set(value(reason == Some(*possible)));
    }
    program(registry, &snapshot.kernel.clone().unwrap_or_default());
}

fn program(registry: &Registry, kernel: &KernelCounters) {
    let help =
        "Datagrams and super-datagrams that the kernel path passed to the sockets, by reason.";
    let passed = counter(registry, "peerrelay_kernel_passed_total", help, &["reason"]);
    for (at, reason) in PassReason::ALL.iter().enumerate() {
        let count = kernel.passed.get(at).copied().unwrap_or(0);
        passed.with_label_values(&[reason.as_str()]).inc_by(count);
    }
    let help = "Datagrams that the kernel's program dropped: above a bandwidth limit, or of unknown \
                sessions above the rate that it leaves to the sockets.";
    let dropped = counter(
        registry,
        "peerrelay_kernel_dropped_total",
        help,
        &["reason"],
    );
    for reason in DROPPED {
        dropped.with_label_values(&[reason.as_str()]);
    }
    for (reason, count) in &kernel.dropped {
        dropped.with_label_values(&[reason.as_str()]).inc_by(*count);
    }
    let help = "Number of times that another process detached the BPF program from a device.";
    let detached = counter(registry, "peerrelay_kernel_detached_total", help, &[]);
    let none: [&str; 0] = [];
    detached.with_label_values(&none).inc_by(kernel.detached);
}
