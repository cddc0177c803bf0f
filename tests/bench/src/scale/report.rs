//! The report about many sessions, as text.

use std::fmt::Write as _;

use super::{ScaleResults, ScaleRow};
use crate::{
    docs,
    implementation::Implementation::{self, Kernel, Socket},
    table::{self, number, percent},
    targets::{self, Target, at_least},
};

/// Part of the speed that is left with the most sessions.
const LEFT: f64 = 0.7;

/// The number of cells of a row, without that of the implementation.
const CELLS: usize = 5;

fn targets(results: &ScaleResults) -> Vec<Target> {
    let of = |implementation: Implementation| {
        let rows = results.rows.iter();
        let mut rows = rows.filter(|row| row.implementation == implementation);
        let (few, all) = (rows.next()?, rows.next()?);
        let what = format!(
            "{implementation} path, {} sessions: datagrams a second",
            all.sessions
        );
        let unit = format!("x {} sessions", few.sessions);
        at_least(
            &what,
            &unit,
            LEFT,
            Some(all.delivered_pps / few.delivered_pps),
        )
    };
    [Kernel, Socket].into_iter().filter_map(of).collect()
}

/// Tables for a terminal, and whether targets hold.
pub fn table(results: &ScaleResults) -> String {
    let mut text = table::machine(&results.conditions) + "\n\n";
    writeln!(
        text,
        "{:<8} {:>8} {:>9} {:>7} {:>6} {:>14}",
        "IMPL", "SESSIONS", "PPS", "CPU us", "NOISE", "BYTES/SESSION"
    )
    .ok();
    for row in &results.rows {
        let [sessions, pps, cpu, noise, bytes] = cells(row);
        let line = format!(
            "{:<8} {sessions:>8} {pps:>9} {cpu:>7} {noise:>6} {bytes:>14}",
            row.implementation
        );
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text + "\n" + &targets::lines(&targets(results))
}

/// Tables for docs/performance.md.
pub fn markdown(results: &ScaleResults) -> String {
    const HEAD: [&str; CELLS] = [
        "sessions",
        "packets/s",
        "CPU us",
        "noise",
        "bytes per session",
    ];
    let rows = results.rows.iter();
    let rows = rows.map(|row| (row.implementation, cells(row)));
    docs::tables(
        &table::machine(&results.conditions),
        &targets(results),
        HEAD,
        rows,
    )
}

fn cells(row: &ScaleRow) -> [String; CELLS] {
    [
        row.sessions.to_string(),
        number(Some(row.delivered_pps), 0),
        number(Some(row.cpu_us), 2),
        percent(Some(row.noise)),
        number(row.bytes_per_session, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sessions_are_compared_with_few() {
        let row = |sessions, delivered_pps| ScaleRow {
            implementation: Socket,
            sessions,
            delivered_pps,
            cpu_us: 8.0,
            noise: 0.01,
            bytes_per_session: None,
        };
        let results = ScaleResults {
            rows: vec![row(1_000, 250_000.0), row(1_000_000, 150_000.0)],
            ..ScaleResults::default()
        };
        let text = table(&results);
        assert!(text.ends_with("verdict: 1 of 1 targets missed\n"), "{text}");
        assert!(text.contains("second: 0.60x 1000 sessions (wanted >= 0.7x 1000 sessions)"));
    }
}
