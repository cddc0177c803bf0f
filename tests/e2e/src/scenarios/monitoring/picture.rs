//! The dashboard as a drawing, from what a Prometheus has: for the documentation, as no Grafana runs
//! here.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use rig::{prometheus::Prometheus, state::repository};
use serde_json::Value;

use super::queries::{list, substituted};

/// Pixels of a column and of a row of Grafana's grid.
const CELL: (f64, f64) = (44.0, 24.0);
/// Pixels that a character of a legend takes at most, and those between two names.
const CHARACTER: (f64, f64) = (5.6, 8.0);
const COLORS: [&str; 6] = [
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b",
];

/// Name of a series, and its values by time.
type Line = (String, Vec<(f64, f64)>);

/// Draws the last `seconds` into a file.
pub(super) fn draw(prometheus: &Prometheus<'_>, seconds: u64, output: &Path) -> Result<()> {
    let board = fs::read_to_string(repository().join("deploy/monitoring/dashboard.json"))?;
    let board: Value = serde_json::from_str(&board)?;
    let bottom = list(&board["panels"]).map(|panel| place(panel, "y") + place(panel, "h"));
    let height = bottom.fold(0.0, f64::max) * CELL.1;
    let width = 24.0 * CELL.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f5f5\"/>\n"
    );
    for panel in list(&board["panels"]) {
        let mut lines = Vec::new();
        for target in list(&panel["targets"]) {
            let query = target["expr"].as_str().context("no query")?;
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let series = prometheus.range(&substituted(query), seconds)?;
            lines.extend(series.iter().map(|series| line(series, legend)));
        }
        shown(&mut svg, panel, &lines);
    }
    svg.push_str("</svg>\n");
    fs::write(output, svg).with_context(|| format!("failed to write {}", output.display()))
}

fn place(panel: &Value, side: &str) -> f64 {
    panel["gridPos"][side].as_f64().unwrap_or_default()
}

fn line(series: &Value, legend: &str) -> Line {
    let name = name(legend, &series["metric"]);
    let values = list(&series["values"]).filter_map(|point| {
        let value: f64 = point[1].as_str()?.parse().ok()?;
        value.is_finite().then_some((point[0].as_f64()?, value))
    });
    (name, values.collect())
}

/// A legend with the values of labels; a label that the series lacks is empty, as in Grafana.
fn name(legend: &str, labels: &Value) -> String {
    let mut parts = legend.split("{{");
    let mut name = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (label, rest) = part.split_once("}}").unwrap_or((part, ""));
        name += labels[label.trim()].as_str().unwrap_or_default();
        name += rest;
    }
    name.trim().to_owned()
}

/// The number of names that fit into so many pixels, with the number of the others.
fn fitting(names: &[&str], width: f64) -> usize {
    let wide = |characters: usize| characters as f64 * CHARACTER.0 + CHARACTER.1;
    let mut left = width;
    let mut all = names.iter().enumerate();
    let cut = all.find_map(|(at, name)| {
        left -= wide(name.chars().count());
        let is_last = at + 1 == names.len();
        let more = if is_last {
            0.0
        } else {
            wide("and 99 more".len())
        };
        (left < more).then_some(at)
    });
    cut.unwrap_or(names.len()).max(1)
}

fn shown(svg: &mut String, panel: &Value, lines: &[Line]) {
    let (x, y) = (place(panel, "x") * CELL.0, place(panel, "y") * CELL.1);
    let (w, h) = (place(panel, "w") * CELL.0, place(panel, "h") * CELL.1);
    let title = panel["title"].as_str().unwrap_or_default();
    if panel["type"] == "row" {
        let y = y + 16.0;
        writeln!(
            svg,
            "<text x=\"6\" y=\"{y:.0}\" font-size=\"13\" font-weight=\"bold\">{title}</text>"
        )
        .ok();
        return;
    }
    writeln!(
        svg,
        "<rect x=\"{:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" fill=\"#ffffff\" stroke=\"#d8d9da\"/>\n\
         <text x=\"{:.0}\" y=\"{:.0}\" font-size=\"11\">{title}</text>",
        x + 2.0, y + 2.0, w - 4.0, h - 4.0, x + 8.0, y + 16.0
    )
    .ok();
    let unit = panel["fieldConfig"]["defaults"]["unit"]
        .as_str()
        .unwrap_or_default();
    if panel["type"] == "stat" {
        let last = lines.iter().find_map(|(_, values)| values.last());
        let text = last.map_or_else(|| "no data".to_owned(), |(_, value)| number(*value, unit));
        let (x, y) = (x + w / 2.0, y + h / 2.0 + 16.0);
        writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" font-size=\"24\" text-anchor=\"middle\" fill=\"#2ca02c\">{text}</text>").ok();
        return;
    }
    graph(
        svg,
        (x + 64.0, y + 26.0, w - 76.0, h - 26.0 - 16.0 * 2.0),
        lines,
        unit,
    );
}

fn graph(svg: &mut String, (x, y, w, h): (f64, f64, f64, f64), lines: &[Line], unit: &str) {
    let points = || lines.iter().flat_map(|(_, values)| values);
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points().fold((f64::MAX, f64::MIN), |(a, b), point| {
            (a.min(of(point)), b.max(of(point)))
        })
    };
    let ((first, last), (low, high)) = (bounds(|p| p.0), bounds(|p| p.1));
    if points().next().is_none() {
        writeln!(
            svg,
            "<text x=\"{x:.0}\" y=\"{:.0}\" fill=\"#8e8e8e\">no data in this time</text>",
            y + h / 2.0
        )
        .ok();
        return;
    }
    let low = low.min(0.0);
    let high = if high > low { high } else { low + 1.0 };
    for (value, at) in [(high, y), (low, y + h)] {
        let text = number(value, unit);
        writeln!(
            svg,
            "<line x1=\"{x:.0}\" x2=\"{:.0}\" y1=\"{at:.0}\" y2=\"{at:.0}\" stroke=\"#e4e5e6\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#57606a\">{text}</text>",
            x + w,
            x - 4.0,
            at + 3.0
        )
        .ok();
    }
    let span = (last - first).max(1.0);
    let place = |(time, value): &(f64, f64)| {
        let across = x + (time - first) / span * w;
        let down = y + h - (value - low) / (high - low) * h;
        format!("{across:.1},{down:.1}")
    };
    for (at, (_, values)) in lines.iter().enumerate() {
        let places: Vec<_> = values.iter().map(place).collect();
        let color = COLORS[at % COLORS.len()];
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" points=\"{}\"/>",
            places.join(" ")
        )
        .ok();
    }
    legend(svg, (x - 56.0, y + h + 22.0), lines, w + 60.0);
}

/// Writes the names of the lines at a place, as far as they fit into so many pixels.
fn legend(svg: &mut String, (x, y): (f64, f64), lines: &[Line], width: f64) {
    let names: Vec<&str> = lines.iter().map(|(name, _)| &**name).collect();
    let named = fitting(&names, width);
    let names = names.iter().take(named).enumerate().map(|(at, name)| {
        let color = COLORS[at % COLORS.len()];
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        format!("<tspan fill=\"{color}\">{name}</tspan>")
    });
    let names: Vec<_> = names.collect();
    let more = lines.len().saturating_sub(named);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    writeln!(
        svg,
        "<text x=\"{x:.0}\" y=\"{y:.0}\">{}{more}</text>",
        names.join("  ")
    )
    .ok();
}

/// A value in its unit, with three digits at most. Only bytes and seconds have prefixes, as a rate
/// with one would be read as another unit.
fn number(value: f64, unit: &str) -> String {
    const LARGE: [(f64, &str); 4] = [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    const SMALL: [(f64, &str); 3] = [(1.0, ""), (1e-3, "m"), (1e-6, "µ")];
    let (suffix, scales) = match unit {
        "Bps" => (" B/s", &LARGE[..]),
        "bytes" => (" B", &LARGE[..]),
        "s" => (" s", &SMALL[..]),
        "none" => ("", &[][..]),
        _ => ("/s", &[][..]),
    };
    let size = value.abs();
    let (scale, prefix) = scales
        .iter()
        .find(|(scale, _)| size >= *scale)
        .copied()
        .unwrap_or((1.0, ""));
    let scaled = value / scale;
    // Digits before the first that counts are none of the three.
    let whole = scaled.abs().max(1e-6).log10().floor();
    let digits = (2.0 - whole).clamp(0.0, 6.0) as usize;
    let number = format!("{scaled:.digits$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &*number,
    };
    let (space, word) = match suffix.strip_prefix(' ') {
        Some(word) => (" ", word),
        None => ("", suffix),
    };
    format!("{number}{space}{prefix}{word}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_short_and_have_prefixes_where_nobody_mistakes_them() {
        for (value, unit, text) in [
            (0.257_16, "ops", "0.257/s"),
            (257.16, "ops", "257/s"),
            (0.0, "ops", "0/s"),
            (36.74, "Bps", "36.7 B/s"),
            (46_330_000.0, "bytes", "46.3 MB"),
            (0.000_494_2, "s", "494 µs"),
            (1.0, "none", "1"),
            (0.001_14, "none", "0.00114"),
            (1_200.0, "none", "1200"),
        ] {
            assert_eq!(number(value, unit), text);
        }
    }

    #[test]
    fn a_legend_names_what_the_series_has_and_what_fits() {
        let labels = json!({"node": "n1", "path": "kernel"});
        assert_eq!(name("{{node}} {{ path }} {{reason}}", &labels), "n1 kernel");
        assert_eq!(name("waiting p99", &labels), "waiting p99");
        let names = ["n1 receive_buffer_full"; 4];
        assert_eq!(fitting(&names, 352.0), 2);
        assert_eq!(fitting(&["n1", "n2"], 352.0), 2);
        assert_eq!(fitting(&[&*"x".repeat(90)], 352.0), 1);
    }
}
