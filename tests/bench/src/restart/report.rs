//! The report about restarts, as text.

use std::fmt::Write as _;

use super::{Event, RestartResults, RestartRow};
use crate::{
    docs,
    implementation::Implementation::{self, Kernel, Socket},
    table,
    targets::{self, Target},
};

/// Most datagrams that a replacement of the socket path may lose.
const FEW: u64 = 50;

/// The number of cells of a row, without that of the implementation.
const CELLS: usize = 9;

fn targets(results: &RestartResults) -> Vec<Target> {
    let of = |implementation: Implementation, killed: bool| {
        let mut rows = results.rows.iter();
        rows.find(|row| {
            row.implementation == implementation && matches!(row.event, Event::Killed(_)) == killed
        })
    };
    let sessions = |row: &RestartRow| (row.sessions - row.passing) as u64;
    let mut targets = Vec::new();
    if let Some(row) = of(Kernel, true) {
        let handshakes = row.handshakes.unwrap_or_default();
        let restored = row.restored.unwrap_or_default();
        targets.extend([
            none("kernel path, killed: datagrams lost", row.lost),
            none(
                "kernel path, killed: handshakes after the return",
                handshakes,
            ),
            Target {
                what: "kernel path, killed: sessions restored".into(),
                wanted: row.sessions.to_string(),
                measured: restored.to_string(),
                holds: restored == row.sessions as u64,
            },
        ]);
    }
    if let Some(row) = of(Kernel, false) {
        targets.push(none("kernel path, replaced: datagrams lost", row.lost));
    }
    if let Some(row) = of(Socket, false) {
        targets.push(none("socket path, replaced: sessions lost", sessions(row)));
        targets.push(Target {
            what: "socket path, replaced: datagrams lost".into(),
            wanted: format!("<= {FEW}"),
            measured: row.lost.to_string(),
            holds: row.lost <= FEW,
        });
    }
    if let Some(row) = of(Socket, true) {
        targets.push(none("socket path, killed: sessions lost", sessions(row)));
    }
    targets
}

fn none(what: &str, measured: u64) -> Target {
    Target {
        what: what.into(),
        wanted: "0".into(),
        measured: measured.to_string(),
        holds: measured == 0,
    }
}

/// Tables for a terminal, and whether targets hold.
pub fn table(results: &RestartResults) -> String {
    let mut text = table::machine(&results.conditions) + "\n\n";
    writeln!(
        text,
        "{:<8} {:<24} {:>8} {:>7} {:>9} {:>8} {:>11} {:>7} {:>8} {:>10}",
        "IMPL",
        "EVENT",
        "SESSIONS",
        "PER S",
        "SENT",
        "LOST",
        "LONGEST ms",
        "PASSING",
        "RESTORED",
        "HANDSHAKES"
    )
    .ok();
    for row in &results.rows {
        let [
            event,
            sessions,
            rate,
            sent,
            lost,
            gap,
            passing,
            restored,
            handshakes,
        ] = cells(row);
        let line = format!(
            "{:<8} {event:<24} {sessions:>8} {rate:>7} {sent:>9} {lost:>8} {gap:>11} {passing:>7} \
             {restored:>8} {handshakes:>10}",
            row.implementation
        );
        writeln!(text, "{}", line.trim_end()).ok();
    }
    text + "\n" + &targets::lines(&targets(results))
}

/// Tables for docs/performance.md.
pub fn markdown(results: &RestartResults) -> String {
    const HEAD: [&str; CELLS] = [
        "what happens",
        "sessions",
        "datagrams/s",
        "sent",
        "lost",
        "longest gap, ms",
        "sessions that pass data",
        "restored",
        "handshakes",
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

fn cells(row: &RestartRow) -> [String; CELLS] {
    let count = |count: Option<u64>| count.map_or_else(String::new, |count| count.to_string());
    [
        row.event.to_string(),
        row.sessions.to_string(),
        row.rate.to_string(),
        row.sent.to_string(),
        row.lost.to_string(),
        format!("{:.1}", row.longest_gap_ms),
        row.passing.to_string(),
        count(row.restored),
        count(row.handshakes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::implementation::Implementation::Go;

    #[test]
    fn only_our_relays_have_targets_and_one_that_is_missed_says_so() {
        let row = |implementation, event, lost| RestartRow {
            implementation,
            event,
            sessions: 16,
            rate: 50_000,
            sent: 1_000_000,
            lost,
            longest_gap_ms: 0.0,
            passing: 16,
            restored: Some(16),
            handshakes: Some(0),
        };
        let results = RestartResults {
            rows: vec![
                row(Kernel, Event::Killed(60), 0),
                row(Socket, Event::Replaced, 51),
                row(Go, Event::Killed(1), 500_000),
            ],
            ..RestartResults::default()
        };
        let text = table(&results);
        assert!(text.ends_with("verdict: 1 of 5 targets missed\n"), "{text}");
        assert!(text.contains("datagrams lost: 51 (wanted <= 50): MISSED"));
    }
}
