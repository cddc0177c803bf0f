//! The targets of the relay, and whether a run reaches them.

use std::fmt::Write as _;

use super::{
    implementation::Implementation::{self, Direct, Dnat, Go, Kernel, Route, Socket},
    row::{RelayResults, RelayRow},
};

/// A target and the figure that a run gives it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name of the quantity, with its unit.
    pub what: String,
    /// The wanted value.
    pub wanted: String,
    /// The measured value.
    pub measured: String,
    /// True if the measured value reaches the wanted one.
    pub holds: bool,
}

/// Sessions, size and segments of a case.
type Key = (usize, usize, usize);

const MANY_SMALL: Key = (1000, 200, 1);
const MANY: Key = (1000, 1320, 1);
const BULK: Key = (1, 1400, 40);
const SINGLE: Key = (64, 200, 1);

/// All targets that this run has figures for.
pub fn of(results: &RelayResults) -> Vec<Target> {
    let figures = Figures(results);
    let groups = [
        figures.socket_throughput(),
        figures.kernel_throughput(),
        figures.latency(),
        figures.memory(),
        figures.allocations(),
    ];
    groups.into_iter().flatten().flatten().collect()
}

/// The figures of a run that targets compare.
struct Figures<'a>(&'a RelayResults);

impl Figures<'_> {
    /// Packets per CPU-second and system calls of the socket path.
    fn socket_throughput(&self) -> Vec<Option<Target>> {
        vec![
            at_least(
                "socket path, 1,000 sessions, 200 B: packets per CPU-second",
                "x Go",
                2.0,
                self.cheaper(Go, Socket, MANY_SMALL),
            ),
            at_least(
                "socket path, 1,000 sessions, 1,320 B: packets per CPU-second",
                "x Go",
                2.0,
                self.cheaper(Go, Socket, MANY),
            ),
            at_most(
                "socket path, 1,000 sessions, 200 B",
                " system calls per packet",
                0.05,
                self.syscalls(MANY_SMALL),
            ),
            at_most(
                "socket path, 1,000 sessions, 1,320 B",
                " system calls per packet",
                0.05,
                self.syscalls(MANY),
            ),
            at_least(
                "socket path, bulk with segmentation offload",
                "x Go",
                1.3,
                self.cheaper(Go, Socket, BULK),
            ),
        ]
    }

    /// Packets per CPU-second of the kernel path.
    fn kernel_throughput(&self) -> Vec<Option<Target>> {
        vec![
            at_least(
                "kernel path, single datagrams",
                "x Go",
                8.0,
                self.cheaper(Go, Kernel, SINGLE),
            ),
            at_least(
                "kernel path, bulk with segmentation offload",
                "x Go",
                20.0,
                self.cheaper(Go, Kernel, BULK),
            ),
            at_least(
                "kernel path, single datagrams",
                "x DNAT with conntrack",
                1.0,
                self.cheaper(Dnat, Kernel, SINGLE),
            ),
            at_least(
                "kernel path, single datagrams",
                "x plain routing",
                0.8,
                self.cheaper(Route, Kernel, SINGLE),
            ),
        ]
    }

    /// Latency that each path adds.
    fn latency(&self) -> Vec<Option<Target>> {
        vec![
            at_most(
                "socket path, added p99 at 10,000 packets a second",
                "x Go",
                0.8,
                self.added(Socket).zip(self.added(Go)).map(|(a, b)| a / b),
            ),
            at_most(
                "kernel path, added p99 at 10,000 packets a second",
                "x plain routing",
                1.2,
                self.added(Kernel)
                    .zip(self.added(Route))
                    .map(|(a, b)| a / b),
            ),
        ]
    }

    /// Memory of sessions and of an idle data path.
    fn memory(&self) -> Vec<Option<Target>> {
        vec![
            at_most(
                "socket path, memory per bound session",
                " B",
                400.0,
                self.of_memory(Socket, |row| row.bytes_per_session),
            ),
            at_most(
                "socket path, memory per bound session",
                "x Go",
                0.4,
                self.ratio(Socket, Go, |row| row.bytes_per_session),
            ),
            at_most(
                "kernel path, memory per bound session",
                " B",
                400.0,
                self.of_memory(Kernel, |row| row.bytes_per_session),
            ),
            at_most(
                "data path alone, idle RSS",
                " MiB",
                12.0,
                self.of_memory(Socket, idle_mib),
            ),
        ]
    }

    /// Allocations that are bound per CPU-second.
    fn allocations(&self) -> Vec<Option<Target>> {
        vec![
            at_least(
                "allocations bound per CPU-second",
                "x Go",
                3.0,
                self.ratio(Socket, Go, |row| row.bound_per_cpu_second),
            ),
            at_least(
                "allocations bound per CPU-second, full mesh",
                "x Go",
                10.0,
                self.ratio(Socket, Go, |row| row.mesh_bound_per_cpu_second),
            ),
        ]
    }

    /// CPU time of the relay for a packet, in microseconds.
    fn cost(&self, implementation: Implementation, key: Key) -> Option<f64> {
        let row = self.0.find(implementation, "v4", key)?;
        row.relay_cost_us_per_packet.filter(|cost| *cost > 0.0)
    }

    /// Ratio of the costs of `than` and `one`.
    fn cheaper(&self, than: Implementation, one: Implementation, key: Key) -> Option<f64> {
        Some(self.cost(than, key)? / self.cost(one, key)?)
    }

    /// 99th percentile of the latency that an implementation adds to a direct path.
    fn added(&self, implementation: Implementation) -> Option<f64> {
        let p99 = |one| self.0.find(one, "v4", SINGLE)?.p99_us;
        Some(p99(implementation)? - p99(Direct)?)
    }

    fn syscalls(&self, key: Key) -> Option<f64> {
        self.0.find(Socket, "v4", key)?.syscalls_per_packet
    }

    /// A figure of the row about memory of an implementation.
    fn of_memory(&self, one: Implementation, field: fn(&RelayRow) -> Option<f64>) -> Option<f64> {
        let mut rows = self.0.rows.iter();
        let row = rows.find(|row| row.implementation == one && row.idle_rss.is_some());
        row.and_then(field)
    }

    /// Ratio of a figure about memory of two implementations.
    fn ratio(
        &self,
        one: Implementation,
        other: Implementation,
        field: fn(&RelayRow) -> Option<f64>,
    ) -> Option<f64> {
        Some(self.of_memory(one, field)? / self.of_memory(other, field)?)
    }
}

fn idle_mib(row: &RelayRow) -> Option<f64> {
    Some(row.idle_rss? as f64 / f64::from(1 << 20))
}

/// Table for docs/performance.md.
pub fn markdown(targets: &[Target]) -> String {
    let mut text = String::from("\n| | target | measured | |\n|---|---|---|---|\n");
    for target in targets {
        let holds = if target.holds { "holds" } else { "**missed**" };
        let (what, wanted, measured) = (&target.what, &target.wanted, &target.measured);
        writeln!(text, "| {what} | {wanted} | {measured} | {holds} |").ok();
    }
    text
}

/// The targets for a terminal, with the verdict on all of them.
pub fn lines(targets: &[Target]) -> String {
    let mut text = String::new();
    for target in targets {
        let holds = if target.holds { "holds" } else { "MISSED" };
        let (what, wanted, measured) = (&target.what, &target.wanted, &target.measured);
        writeln!(text, "{what}: {measured} (wanted {wanted}): {holds}").ok();
    }
    let (all, missed) = (targets.len(), targets.iter().filter(|t| !t.holds).count());
    match missed {
        0 => writeln!(text, "verdict: all {all} targets hold"),
        _ => writeln!(text, "verdict: {missed} of {all} targets missed"),
    }
    .ok();
    text
}

/// A target that holds for as long as the figure is no less, if there is a figure.
pub fn at_least(what: &str, unit: &str, wanted: f64, measured: Option<f64>) -> Option<Target> {
    let measured = measured.filter(|value| value.is_finite())?;
    Some(target(
        what,
        ">=",
        unit,
        wanted,
        measured,
        measured >= wanted,
    ))
}

/// A target that holds for as long as the figure is no greater, if there is a figure.
pub fn at_most(what: &str, unit: &str, wanted: f64, measured: Option<f64>) -> Option<Target> {
    let measured = measured.filter(|value| value.is_finite())?;
    Some(target(
        what,
        "<=",
        unit,
        wanted,
        measured,
        measured <= wanted,
    ))
}

fn target(
    what: &str,
    relation: &str,
    unit: &str,
    wanted: f64,
    measured: f64,
    holds: bool,
) -> Target {
    // As many digits as the target itself needs.
    let digits = match wanted {
        wanted if wanted < 0.1 => 3,
        wanted if wanted < 100.0 => 2,
        _ => 0,
    };
    Target {
        what: what.into(),
        wanted: format!("{relation} {wanted}{unit}"),
        measured: format!("{measured:.digits$}{unit}"),
        holds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_without_a_figure_are_left_out() {
        assert!(of(&RelayResults::default()).is_empty());
    }

    #[test]
    fn cost_is_compared_with_go() {
        let row = |implementation, cost| RelayRow {
            size: Some(200),
            segments: Some(1),
            relay_cost_us_per_packet: Some(cost),
            ..RelayRow::new(implementation, "v4", 1000)
        };
        let results = RelayResults {
            rows: vec![row(Go, 12.0), row(Socket, 5.0)],
            ..RelayResults::default()
        };
        let [target] = &of(&results)[..] else {
            panic!("one case gives one target");
        };
        assert_eq!((target.measured.as_str(), target.holds), ("2.40x Go", true));
        assert_eq!(target.wanted, ">= 2x Go");
    }
}
