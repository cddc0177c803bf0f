//! Results in docs/performance.md, between two marks, and their drawing beside it.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result};
use rig::state::repository;

use super::{
    implementation::Implementation,
    plot,
    row::RelayResults,
    table::{self, number},
    targets::{self, Target},
};

const PAGE: &str = "docs/performance.md";
const DRAWING: &str = "docs/performance.svg";
const END: &str = "<!-- end -->";
/// Columns that hold words; all others hold numbers.
const TEXT: [&str; 2] = ["attack", "what happens"];

/// A place in the page: the command that writes it.
#[derive(Clone, Copy, Debug)]
pub struct Place(&'static str);

/// Of `cargo dev bench relay`.
pub const RELAY: Place = Place("relay");
/// Of `cargo dev bench operator`.
pub const OPERATOR: Place = Place("operator");
/// Of `cargo dev bench restart`.
pub const RESTART: Place = Place("restart");
/// Of `cargo dev bench flood`.
pub const FLOOD: Place = Place("flood");
/// Of `cargo dev bench scale`.
pub const SCALE: Place = Place("scale");
/// Of `cargo dev bench map`.
pub const MAP: Place = Place("map");

impl Place {
    fn begin(self) -> String {
        let Self(bench) = self;
        format!("<!-- written by cargo dev bench {bench} --update-docs: begin -->\n")
    }
}

/// Writes tables and drawing where they are kept.
pub fn update(results: &RelayResults) -> Result<()> {
    put(RELAY, &markdown(results))?;
    plot::write(results, &repository().join(DRAWING))?;
    println!("written: {DRAWING}");
    Ok(())
}

/// Writes tables where they are kept.
pub fn put(place: Place, tables: &str) -> Result<()> {
    let page = repository().join(PAGE);
    let text = fs::read_to_string(&page).with_context(|| format!("failed to read {PAGE}"))?;
    let text = replaced(&text, &place.begin(), tables)
        .with_context(|| format!("{PAGE} has no place for results: it lost its marks"))?;
    fs::write(&page, text)?;
    println!("written: {PAGE}");
    Ok(())
}

/// The conditions, whether targets hold, and a table with a line for each row; `head` is
/// the table's, without the implementation.
pub fn tables<const CELLS: usize>(
    measured: &str,
    targets: &[Target],
    head: [&str; CELLS],
    rows: impl Iterator<Item = (Implementation, [String; CELLS])>,
) -> String {
    let mut text = format!("\n- {measured}\n{}", targets::markdown(targets));
    writeln!(text, "\n| | {} |", head.join(" | ")).ok();
    let aligned = head.map(|name| if TEXT.contains(&name) { "---" } else { "--:" });
    writeln!(text, "|---|{}|", aligned.join("|")).ok();
    for (implementation, cells) in rows {
        writeln!(text, "| {implementation} | {} |", cells.join(" | ")).ok();
    }
    text.push('\n');
    text
}

fn replaced(text: &str, begin: &str, results: &str) -> Option<String> {
    let (before, rest) = text.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}{results}{END}{after}"))
}

fn markdown(results: &RelayResults) -> String {
    let mut text = String::from("\n");
    for line in table::conditions(&results.conditions).lines() {
        writeln!(text, "- {line}").ok();
    }
    text += &targets::markdown(&targets::of(results));
    text += "\n![CPU time per relayed datagram](performance.svg)\n\n";
    text += "| path | sessions | size | segments | | packets/s | Gb/s | CPU us | cost us | noise | system calls | p50 us | p99 us |\n";
    text += "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in results.rows.iter().filter(|row| row.size.is_some()) {
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.path,
            row.sessions,
            row.size.unwrap_or_default(),
            row.segments.unwrap_or_default(),
            row.implementation,
            number(row.delivered_pps, 0),
            number(row.delivered_gbps, 2),
            number(row.cpu(&results.conditions), 2),
            number(row.relay_cost_us_per_packet, 2),
            table::percent(row.noise),
            number(row.syscalls_per_packet, 3),
            number(row.p50_us, 0),
            number(row.p99_us, 0),
        )
        .ok();
    }
    text += "\n| | sessions | idle RSS | of it anonymous | bytes per session | BPF maps, MiB | bound per CPU-second | full mesh |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for row in results.rows.iter().filter(|row| row.idle_rss.is_some()) {
        writeln!(text, "| {} |", table::memory_cells(row).join(" | ")).ok();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let begin = RELAY.begin();
        let page = format!("# before\n{begin}old\n{END}\nafter\n");
        let expected = format!("# before\n{begin}new\n{END}\nafter\n");
        assert_eq!(replaced(&page, &begin, "new\n"), Some(expected));
        assert_eq!(replaced("no marks", &begin, "new"), None);
    }

    #[test]
    fn the_page_has_its_marks() {
        let page = fs::read_to_string(repository().join(PAGE)).expect("it is in the tree");
        for place in [RELAY, OPERATOR, RESTART, FLOOD, SCALE] {
            assert!(replaced(&page, &place.begin(), "").is_some(), "{place:?}");
        }
    }
}
