//! Results as text.

use std::fmt::Write as _;

use super::row::{Conditions, RelayResults, RelayRow};

/// Table for a terminal.
pub fn of(results: &RelayResults) -> String {
    let mut text = conditions(&results.conditions);
    text += &format!(
        "\n{:<6} {:>8} {:>5} {:>4} {:<13} {:>10} {:>7} {:>9} {:>9} {:>9} {:>6} {:>6} {:>8} {:>8} {:>8}\n",
        "PATH",
        "SESSIONS",
        "SIZE",
        "SEGS",
        "IMPL",
        "PPS",
        "GBPS",
        "CPU us",
        "PROC us",
        "COST us",
        "NOISE",
        "LOST",
        "SYSCALLS",
        "P50 us",
        "P99 us"
    );
    for row in results.rows.iter().filter(|row| row.size.is_some()) {
        let line = format!(
            "{:<6} {:>8} {:>5} {:>4} {:<13} {:>10} {:>7} {:>9} {:>9} {:>9} {:>6} {:>6} {:>8} {:>8} {:>8}",
            row.path,
            row.sessions,
            row.size.unwrap_or_default(),
            row.segments.unwrap_or_default(),
            row.implementation,
            number(row.delivered_pps, 0),
            number(row.delivered_gbps, 2),
            number(row.machine_cpu_us_per_packet, 2),
            number(row.process_cpu_us_per_packet, 2),
            number(row.relay_cost_us_per_packet, 2),
            percent(row.noise),
            percent(row.lost),
            number(row.syscalls_per_packet, 3),
            number(row.p50_us, 0),
            number(row.p99_us, 0),
        );
        text += line.trim_end();
        text.push('\n');
    }
    text + &memory(results)
}

/// Table of memory and allocations: empty if no row has them.
fn memory(results: &RelayResults) -> String {
    let rows = results.rows.iter().filter(|row| row.idle_rss.is_some());
    let lines: String = rows.map(memory_line).collect();
    if lines.is_empty() {
        return lines;
    }
    let head = format!(
        "\n{:<13} {:>8} {:>10} {:>10} {:>14} {:>10} {:>16} {:>16}\n",
        "IMPL",
        "SESSIONS",
        "IDLE RSS",
        "ANONYMOUS",
        "BYTES/SESSION",
        "BPF MAPS",
        "BOUND/CPU-S",
        "MESH BOUND/CPU-S"
    );
    head + &lines
}

fn memory_line(row: &RelayRow) -> String {
    let [
        implementation,
        sessions,
        rss,
        anonymous,
        bytes,
        bpf,
        bound,
        mesh,
    ] = memory_cells(row);
    format!(
        "{implementation:<13} {sessions:>8} {rss:>10} {anonymous:>10} {bytes:>14} {bpf:>10} \
         {bound:>16} {mesh:>16}\n"
    )
}

/// The cells of a row about memory and allocations.
pub fn memory_cells(row: &RelayRow) -> [String; 8] {
    [
        row.implementation.to_string(),
        row.sessions.to_string(),
        format!("{} MiB", mib(row.idle_rss)),
        format!("{} MiB", mib(row.idle_anonymous)),
        number(row.bytes_per_session, 0),
        mib(row.bpf_memory),
        number(row.bound_per_cpu_second, 0),
        number(row.mesh_bound_per_cpu_second, 0),
    ]
}

/// Date and machine, in one line.
pub fn machine(conditions: &Conditions) -> String {
    let Conditions {
        date,
        commit,
        kernel,
        machine,
        ..
    } = conditions;
    format!("{date}, commit {commit}, Linux {kernel}, {machine}")
}

/// Date, machine and method, a line each.
pub fn conditions(conditions: &Conditions) -> String {
    let Conditions {
        offloads,
        rounds: (rounds, seconds),
        cpu,
        foreign_cpu,
        ..
    } = conditions;
    let mut text = machine(conditions) + "\n";
    writeln!(text, "{offloads}").ok();
    writeln!(
        text,
        "median of {rounds} rounds of {seconds} s; cost by CPU time of the {cpu} ({:.1} % of the \
         machine's was others')",
        foreign_cpu * 100.0
    )
    .ok();
    text
}

/// A figure, or nothing where nothing was measured.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

/// Bytes in MiB, or nothing where nothing was measured.
pub fn mib(bytes: Option<u64>) -> String {
    number(bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), 1)
}

/// A share, or nothing where nothing was measured.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{:.1}%", value * 100.0))
}
