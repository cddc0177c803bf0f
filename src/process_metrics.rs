//! Standard `process_*` metrics of this process, from `/proc/self`.

use std::{fs, sync::OnceLock};

use prometheus::{
    Counter, Gauge, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::registry::register;

/// Measurements of a process. A value that cannot be read is left out.
#[derive(Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: Option<f64>,
    threads: Option<f64>,
    start_seconds: Option<f64>,
    virtual_bytes: Option<f64>,
    resident_bytes: Option<f64>,
    open_files: Option<f64>,
    most_open_files: Option<f64>,
}

/// Clock ticks in a second as the kernel tells them to processes (`USER_HZ`): the same on every
/// architecture that relays and operator are built for.
const TICKS: f64 = 100.0;
/// Bytes in a unit of `/proc/self/status`.
const KIB: f64 = 1024.0;

/// Metrics of this process for a registry, read whenever they are gathered.
#[derive(Clone)]
pub(crate) struct ProcessMetrics {
    cpu_seconds: Counter,
    gauges: Vec<(Gauge, Value)>,
}

/// Takes the value of a gauge.
type Value = fn(&Usage) -> Option<f64>;

/// Names, documentation and values of the gauges.
const GAUGES: [(&str, &str, Value); 6] = [
    (
        "process_open_fds",
        "Number of open file descriptors.",
        |usage| usage.open_files,
    ),
    (
        "process_max_fds",
        "Maximum number of open file descriptors.",
        |usage| usage.most_open_files,
    ),
    (
        "process_virtual_memory_bytes",
        "Virtual memory, in bytes.",
        |usage| usage.virtual_bytes,
    ),
    (
        "process_resident_memory_bytes",
        "Resident memory, in bytes.",
        |usage| usage.resident_bytes,
    ),
    (
        "process_start_time_seconds",
        "Start time of the process, in seconds since 1970.",
        |usage| usage.start_seconds,
    ),
    (
        "process_threads",
        "Number of threads of the process.",
        |usage| usage.threads,
    ),
];

impl ProcessMetrics {
    /// Enters them into a registry.
    pub(crate) fn register(registry: &Registry) {
        register(registry, Self::new());
    }

    fn new() -> prometheus::Result<Self> {
        let help = "CPU time in user and system mode, in seconds.";
        let gauges = GAUGES
            .into_iter()
            .map(|(name, help, value)| Ok((Gauge::new(name, help)?, value)));
        Ok(Self {
            cpu_seconds: Counter::new("process_cpu_seconds_total", help)?,
            gauges: gauges.collect::<prometheus::Result<_>>()?,
        })
    }

    /// The families of what could be read.
    fn families(&self, usage: &Usage) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(seconds) = usage.cpu_seconds {
            self.cpu_seconds.reset();
            self.cpu_seconds.inc_by(seconds);
            families.extend(self.cpu_seconds.collect());
        }
        for (gauge, value) in &self.gauges {
            if let Some(value) = value(usage) {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges.iter().flat_map(|(gauge, _)| gauge.desc());
        self.cpu_seconds.desc().into_iter().chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families(&Usage::read())
    }
}

/// Time at which the machine was booted, in seconds since 1970. It is read once.
fn boot_seconds() -> Option<f64> {
    static BOOT: OnceLock<Option<f64>> = OnceLock::new();
    *BOOT.get_or_init(|| value(&read("/proc/stat"), "btime"))
}

impl Usage {
    fn read() -> Self {
        let mut usage = parse(
            &read("/proc/self/stat"),
            &read("/proc/self/status"),
            &read("/proc/self/limits"),
            boot_seconds(),
        );
        // Reading the directory takes one more.
        let files = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1));
        usage.open_files = files.ok().map(|count| count as f64);
        usage
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number after `name` at the beginning of a line.
fn value(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().find_map(|line| line.strip_prefix(name))?;
    values.split_whitespace().next()?.parse().ok()
}

/// Takes values from the files of the same names, and the time of the boot.
fn parse(stat: &str, status: &str, limits: &str, boot: Option<f64>) -> Usage {
    // The name of the program may hold spaces and brackets, and ends with the last one.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // Counted as in proc_pid_stat(5), where the state after the name is field 3.
    let field = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
    let cpu = field(14).zip(field(15));
    let start = boot.zip(field(22));
    Usage {
        cpu_seconds: cpu.map(|(user, system)| (user + system) / TICKS),
        threads: field(20),
        start_seconds: start.map(|(boot, ticks)| boot + ticks / TICKS),
        virtual_bytes: value(status, "VmSize:").map(|kib| kib * KIB),
        resident_bytes: value(status, "VmRSS:").map(|kib| kib * KIB),
        open_files: None,
        most_open_files: value(limits, "Max open files"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use prometheus::TextEncoder;

    use super::*;

    const STAT: &str = "42 (a) b (c)) S 1 42 42 0 -1 4194560 300 0 0 0 150 50 0 0 20 0 7 0 1000 \
                        4096000 25 18446744073709551615 1 1";
    const STATUS: &str = "Name:\ta\nVmSize:\t    4000 kB\nVmRSS:\t     100 kB\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max open files            1024                 4096                 files\n";

    #[test]
    fn values_are_taken_from_the_kernels_files() {
        let boot = value("cpu 1 2 3\nbtime 1700000000\n", "btime");
        let usage = parse(STAT, STATUS, LIMITS, boot);
        let wanted = Usage {
            cpu_seconds: Some(2.0),
            threads: Some(7.0),
            start_seconds: Some(1_700_000_010.0),
            virtual_bytes: Some(4_096_000.0),
            resident_bytes: Some(102_400.0),
            open_files: None,
            most_open_files: Some(1024.0),
        };
        assert_eq!(usage, wanted);
        assert_eq!(parse("", "", "", None), Usage::default());
        let endless = LIMITS.replace("1024 ", "unlimited ");
        let usage = parse(STAT, STATUS, &endless, None);
        assert_eq!(usage.most_open_files, None);
        assert_eq!(usage.start_seconds, None);
        let metrics = ProcessMetrics::new().unwrap();
        let families = metrics.families(&usage);
        assert_eq!(families.len(), 4, "what cannot be read is left out");
    }

    #[test]
    fn this_process_has_all_of_them() {
        let registry = Registry::new();
        ProcessMetrics::register(&registry);
        let text = || {
            let families = registry.gather();
            TextEncoder::new().encode_to_string(&families).unwrap()
        };
        // What a counter has counted is not counted again.
        text();
        let text = text();
        for name in [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_max_fds",
            "process_virtual_memory_bytes",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
        ] {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(' ')?.1.parse::<f64>().ok());
            let least = if name.contains("cpu") { 0.0 } else { 1.0 };
            assert!(
                value.is_some_and(|value| value >= least),
                "{name} in {text}"
            );
        }
    }
}
