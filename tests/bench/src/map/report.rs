//! The report about network maps, as text.

use std::fmt::Write as _;

use super::{MapResults, MapRow, Times};
use crate::{
    table::{self, mib, number},
    targets::{self, Target, at_most},
};

/// The size of tailnet that targets are for.
const TARGET_DEVICES: u32 = 100_000;

/// Columns, with the width of each.
const COLUMNS: [(&str, usize); 12] = [
    ("DEVICES", 8),
    ("MAP MiB", 8),
    ("SENT MiB", 9),
    ("LOAD ms", 9),
    ("RSS MiB", 8),
    ("PEAK MiB", 9),
    ("ONLINE us", 11),
    ("RESTART us", 11),
    ("FILTER ms", 11),
    ("ASK P50 us", 11),
    ("ASK P99 us", 13),
    ("MESSAGES/s", 11),
];

fn targets(results: &MapResults) -> Vec<Target> {
    let row = results
        .rows
        .iter()
        .find(|row| row.devices == TARGET_DEVICES && !row.replay.refused);
    let Some(MapRow { replay, .. }) = row else {
        return Vec::new();
    };
    let p50 = |times: Option<Times>| times?.p50_us;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let milliseconds = |us: f64| us / 1e3;
    let ask = replay.requests_unrelated.and_then(|times| times.p99_us);
    let targets = [
        at_most(
            "100,000 devices: a message about who is online",
            " us",
            20.0,
            p50(replay.unrelated),
        ),
        at_most(
            "100,000 devices: a message with the whole packet filter, all devices by address",
            " ms",
            5.0,
            p50(replay.filter).map(milliseconds),
        ),
        at_most(
            "100,000 devices, 1,000 messages a second: answer to an allocation request, p99",
            " ms",
            5.0,
            ask.map(milliseconds),
        ),
        at_most(
            "100,000 devices: resident memory",
            " MiB",
            40.0,
            replay.resident.map(mib),
        ),
    ];
    targets.into_iter().flatten().collect()
}

/// Tables for a terminal.
pub fn table(results: &MapResults) -> String {
    let mut text = table::machine(&results.conditions) + "\n\n";
    for (name, width) in COLUMNS {
        write!(text, "{name:>width$}").ok();
    }
    text.push('\n');
    for row in &results.rows {
        for (cell, (_, width)) in cells(row).iter().zip(COLUMNS) {
            write!(text, "{cell:>width$}").ok();
        }
        text.push('\n');
    }
    text + "\n" + &targets::lines(&targets(results))
}

/// Tables for docs/performance.md.
pub fn markdown(results: &MapResults) -> String {
    let mut text = format!("\n- {}\n", table::machine(&results.conditions));
    text += &targets::markdown(&targets(results));
    text += "\n| devices | map, MiB | sent, MiB | load, ms | RSS, MiB | peak, MiB | who is online, us \
             | a device restarts, us | packet filter, ms | request p50, us | p99, us | messages a second |\n";
    text += "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in &results.rows {
        writeln!(text, "| {} |", cells(row).join(" | ")).ok();
    }
    text + "\n"
}

fn cells(row: &MapRow) -> [String; 12] {
    let replay = &row.replay;
    let load = match replay.refused {
        true => "refused".into(),
        false => number(Some(replay.load_ms), 0),
    };
    let p50 = |times: &Option<Times>| times.and_then(|times| times.p50_us);
    let asked = |at: fn(&Times) -> Option<f64>| replay.requests_unrelated.as_ref().and_then(at);
    // The replay sends for ten seconds.
    let rate = |times: &Times| times.messages.map(|messages| f64::from(messages) / 10.0);
    [
        row.devices.to_string(),
        mib(Some(row.map_bytes)),
        mib(Some(row.received_bytes)),
        load,
        mib(replay.resident),
        mib(replay.peak),
        number(p50(&replay.unrelated), 1),
        number(p50(&replay.device), 1),
        number(p50(&replay.filter).map(|us| us / 1e3), 2),
        number(asked(|times| times.p50_us), 0),
        number(asked(|times| times.p99_us), 0),
        number(asked(rate), 0),
    ]
}
