//! Standard `process_*` metrics of this process, from `/proc/self`.

use std::{fmt::Write, fs};

/// What a process is measured by; a value that cannot be read is left out.
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

/// Renders all of them in Prometheus text format.
pub(crate) fn render() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut usage = parse(
        &read("/proc/self/stat"),
        &read("/proc/self/status"),
        &read("/proc/self/limits"),
        &read("/proc/stat"),
    );
    // Reading the directory takes one more.
    let files = fs::read_dir("/proc/self/fd").map(|files| files.count().saturating_sub(1));
    usage.open_files = files.ok().map(|count| count as f64);
    text(&usage)
}

/// Takes values from the files of the same names.
fn parse(stat: &str, status: &str, limits: &str, system: &str) -> Usage {
    // The name of the program may hold spaces and brackets, and ends with the last one.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    // Counted as in proc_pid_stat(5), where the state after the name is field 3.
    let field = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
    let value = |text: &str, name: &str| -> Option<f64> {
        let values = text.lines().find_map(|line| line.strip_prefix(name))?;
        values.split_whitespace().next()?.parse().ok()
    };
    let cpu = field(14).zip(field(15));
    let start = value(system, "btime").zip(field(22));
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

fn text(usage: &Usage) -> String {
    let families = [
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time in user and system mode, in seconds.",
            usage.cpu_seconds,
        ),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            usage.open_files,
        ),
        (
            "process_max_fds",
            "gauge",
            "Most file descriptors that may be open.",
            usage.most_open_files,
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory, in bytes.",
            usage.virtual_bytes,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory, in bytes.",
            usage.resident_bytes,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process started, in seconds since 1970.",
            usage.start_seconds,
        ),
        (
            "process_threads",
            "gauge",
            "Threads of the process.",
            usage.threads,
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in families {
        if let Some(value) = value {
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )
            .expect("memory takes all text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c)) S 1 42 42 0 -1 4194560 300 0 0 0 150 50 0 0 20 0 7 0 1000 \
                        4096000 25 18446744073709551615 1 1";
    const STATUS: &str = "Name:\ta\nVmSize:\t    4000 kB\nVmRSS:\t     100 kB\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max open files            1024                 4096                 files\n";

    #[test]
    fn values_are_taken_from_the_kernels_files() {
        let usage = parse(STAT, STATUS, LIMITS, "cpu 1 2 3\nbtime 1700000000\n");
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
        assert_eq!(parse("", "", "", ""), Usage::default());
        let endless = LIMITS.replace("1024 ", "unlimited ");
        assert_eq!(parse(STAT, STATUS, &endless, "").most_open_files, None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let text = render();
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
