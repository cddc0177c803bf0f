//! The report about attacks, as text.

use std::fmt::Write as _;

use super::{FloodResults, FloodRow};
use crate::{
    docs,
    implementation::Implementation::Go,
    table::{self, mib, number},
    targets::{self, Target, at_most},
};

/// Most that bound sessions may lose, in percent.
const LOSS: f64 = 0.1;
/// Most that memory may grow, in MiB, when the limits of sessions are used up.
const GROWTH: f64 = 1.0;
/// Most that their slowest datagram in a hundred may take, against before.
const SLOWER: f64 = 2.0;
/// Most CPU time that an attack may cost the relay, in percent of a core.
const WORK: f64 = 25.0;

/// The number of cells of a row, without that of the implementation.
const CELLS: usize = 12;

impl FloodRow {
    /// Lost datagrams in percent of those sent.
    fn loss(&self) -> f64 {
        self.lost as f64 * 100.0 / self.sent.max(1) as f64
    }

    fn growth(&self) -> u64 {
        self.rss_peak - self.rss_before
    }

    /// The cost of the attack for the relay, in percent of a core, without that of the sessions.
    fn work(&self) -> f64 {
        (self.cpus - self.cpus_before).max(0.0) * 100.0
    }

    fn slower(&self) -> Option<f64> {
        Some(self.p99_us? / self.p99_before_us?.max(1.0))
    }
}

fn targets(results: &FloodResults) -> Vec<Target> {
    let ours = results.rows.iter().filter(|row| row.implementation != Go);
    let of = |row: &FloodRow| {
        let (path, attack) = (row.implementation, row.attack);
        let growth = row.growth() as f64 / f64::from(1 << 20);
        let lost = format!("{path} path, {attack}: datagrams of bound sessions lost");
        let grown = format!("{path} path, {attack}: growth of resident memory");
        let slower = format!("{path} path, {attack}: p99 of bound sessions");
        let work = format!("{path} path, {attack}: the relay's CPU time for it");
        [
            at_most(&lost, " %", LOSS, Some(row.loss())),
            at_most(&slower, "x before", SLOWER, row.slower()),
            at_most(&work, " % of a core", WORK, Some(row.work())),
            at_most(&grown, " MiB", GROWTH, Some(growth)),
        ]
    };
    ours.flat_map(of).flatten().collect()
}

fn conditions(results: &FloodResults) -> String {
    let machine = table::machine(&results.conditions);
    format!("{machine}; {} s of each attack", results.seconds)
}

/// Tables for a terminal, and whether targets hold.
pub fn table(results: &FloodResults) -> String {
    let mut text = conditions(results) + "\n\n";
    writeln!(
        text,
        "{:<8} {:<16} {:>9} {:>8} {:>8} {:>8} {:>11} {:>11} {:>8} {:>6} {:>7} {:>9} {:>9}",
        "IMPL",
        "ATTACK",
        "PER S",
        "SENT",
        "LOST",
        "LOST %",
        "LONGEST ms",
        "P99 BEFORE",
        "P99 us",
        "CPUS",
        "FOR IT",
        "RSS",
        "GROWTH"
    )
    .ok();
    for row in &results.rows {
        let [
            attack,
            offered,
            sent,
            lost,
            share,
            gap,
            before,
            p99,
            cpus,
            work,
            rss,
            growth,
        ] = cells(row);
        writeln!(
            text,
            "{:<8} {attack:<16} {offered:>9} {sent:>8} {lost:>8} {share:>8} {gap:>11} {before:>11} \
             {p99:>8} {cpus:>6} {work:>7} {rss:>9} {growth:>9}",
            row.implementation
        )
        .ok();
    }
    text + "\n" + &targets::lines(&targets(results))
}

/// Tables for docs/performance.md.
pub fn markdown(results: &FloodResults) -> String {
    const HEAD: [&str; CELLS] = [
        "attack",
        "a second",
        "datagrams sent",
        "lost",
        "%",
        "longest gap, ms",
        "p99 before, us",
        "p99, us",
        "the relay's CPUs",
        "for it, % of a core",
        "RSS, MiB",
        "growth, MiB",
    ];
    let rows = results.rows.iter();
    let rows = rows.map(|row| (row.implementation, cells(row)));
    docs::tables(&conditions(results), &targets(results), HEAD, rows)
}

fn cells(row: &FloodRow) -> [String; CELLS] {
    [
        row.attack.to_string(),
        format!("{:.0}", row.offered),
        row.sent.to_string(),
        row.lost.to_string(),
        format!("{:.3}", row.loss()),
        format!("{:.1}", row.longest_gap_ms),
        number(row.p99_before_us, 0),
        number(row.p99_us, 0),
        format!("{:.2}", row.cpus),
        format!("{:.0}", row.work()),
        mib(Some(row.rss_before)),
        mib(Some(row.growth())),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::attack::Attack, *};
    use crate::implementation::Implementation::Socket;

    #[test]
    fn our_relays_are_judged() {
        let row = |implementation, attack| FloodRow {
            implementation,
            attack,
            offered: 300_000.0,
            sent: 300_000,
            lost: 900,
            longest_gap_ms: 20.0,
            p99_before_us: Some(50.0),
            p99_us: Some(130.0),
            cpus_before: 0.8,
            cpus: 1.0,
            rss_before: 5 << 20,
            rss_peak: 6 << 20,
        };
        let results = FloodResults {
            rows: vec![row(Socket, Attack::Junk), row(Go, Attack::Junk)],
            ..FloodResults::default()
        };
        let text = table(&results);
        assert!(text.ends_with("verdict: 2 of 4 targets missed\n"), "{text}");
        assert!(text.contains("p99 of bound sessions: 2.60x before (wanted <= 2x before): MISSED"));
        assert!(
            text.contains("CPU time for it: 20.00 % of a core (wanted <= 25 % of a core): holds")
        );
        assert!(text.contains("sessions lost: 0.30 % (wanted <= 0.1 %): MISSED"));
        assert!(text.contains("memory: 1.00 MiB (wanted <= 1 MiB): holds"));
    }
}
