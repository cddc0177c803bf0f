//! Results as a drawing: what a relay costs for each datagram, one group of bars for each case.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{
    implementation::Implementation,
    row::{RelayResults, RelayRow},
};

/// The results to draw.
#[derive(Debug, clap::Args)]
pub struct PlotArgs {
    /// Results that `cargo dev bench relay --json` wrote
    file: PathBuf,
    /// Directory for the pictures; that of the file by default
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Left of the bars, the bars, and right of them for their figures.
const WIDTHS: (f64, f64, f64) = (210.0, 460.0, 90.0);
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 58.0;

/// Draws the results.
pub fn run(args: &PlotArgs) -> Result<()> {
    let shown = args.file.display();
    let text = fs::read(&args.file).with_context(|| format!("failed to read {shown}"))?;
    let results = serde_json::from_slice(&text)
        .with_context(|| format!("{shown} is not what `cargo dev bench relay --json` writes"))?;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => args.file.with_extension("svg"),
    };
    write(&results, &output)?;
    println!("{}", output.display());
    Ok(())
}

/// Writes the drawing to a file.
pub fn write(results: &RelayResults, output: &Path) -> Result<()> {
    let drawing = draw(results);
    ensure!(drawing.contains("<rect"), "there is no cost to draw");
    fs::write(output, drawing).with_context(|| format!("failed to write {}", output.display()))
}

fn draw(results: &RelayResults) -> String {
    let groups = groups(results);
    let costs = groups.iter().flatten().filter_map(|row| cost(row));
    let (least, most) = costs.fold((f64::MAX, 0.0_f64), |(a, b), c| (a.min(c), b.max(c)));
    // Whole decades, so that a grid line stands at each.
    let decades = (least.log10().floor(), most.log10().ceil());
    let bars: usize = groups.iter().map(Vec::len).sum();
    let height = HEAD + bars as f64 * BAR + groups.len() as f64 * GAP + 30.0;
    let width = WIDTHS.0 + WIDTHS.1 + WIDTHS.2;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"14\">CPU time per relayed datagram, microseconds \
         (logarithmic, shorter is better)</text>\n\
         <text x=\"12\" y=\"38\" fill=\"#57606a\">{}, {}; CPU time less that of the direct path\
         </text>\n",
        results.conditions.date, results.conditions.machine
    );
    grid(&mut svg, decades, height);
    let mut y = HEAD;
    for group in &groups {
        if let Some(first) = group.first() {
            let middle = y + group.len() as f64 * BAR / 2.0 + 4.0;
            let label = label(first);
            writeln!(svg, "<text x=\"12\" y=\"{middle:.1}\">{label}</text>").ok();
        }
        for row in group {
            bar(&mut svg, row, decades, y);
            y += BAR;
        }
        y += GAP;
    }
    svg += "</svg>\n";
    svg
}

/// Rows with a cost, by case, in the order of the results.
fn groups(results: &RelayResults) -> Vec<Vec<&RelayRow>> {
    let mut groups: Vec<Vec<&RelayRow>> = Vec::new();
    for row in results.rows.iter().filter(|row| cost(row).is_some()) {
        match groups
            .iter_mut()
            .find(|group| label(group[0]) == label(row))
        {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// A cost that a logarithm can be taken of.
fn cost(row: &RelayRow) -> Option<f64> {
    row.relay_cost_us_per_packet.filter(|cost| *cost > 0.0)
}

fn label(row: &RelayRow) -> String {
    let RelayRow { path, sessions, .. } = row;
    let size = row.size.unwrap_or_default();
    let segments = match row.segments {
        Some(segments) if segments > 1 => format!(", {segments} segments"),
        _ => String::new(),
    };
    let plural = if *sessions == 1 { "" } else { "s" };
    format!("{path}: {sessions} session{plural}, {size} B{segments}")
}

fn position(value: f64, (first, last): (f64, f64)) -> f64 {
    (value.log10() - first) / (last - first).max(1.0) * WIDTHS.1
}

fn grid(svg: &mut String, decades: (f64, f64), height: f64) {
    let bottom = height - 24.0;
    for decade in decades.0 as i32..=decades.1 as i32 {
        let value = 10_f64.powi(decade);
        let x = WIDTHS.0 + position(value, decades);
        let top = HEAD - 6.0;
        writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#d0d7de\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#57606a\">{value}</text>",
            bottom + 14.0
        )
        .ok();
    }
}

fn bar(svg: &mut String, row: &RelayRow, decades: (f64, f64), y: f64) {
    let cost = cost(row).unwrap_or_default();
    let length = position(cost, decades).max(1.0);
    let (x, middle) = (WIDTHS.0, y + BAR - 4.0);
    let color = match row.implementation {
        Implementation::Go => "#8c959f",
        Implementation::Socket => "#0969da",
        Implementation::SocketBefore => "#80ccff",
        Implementation::Kernel => "#1a7f37",
        Implementation::KernelBefore => "#7ee787",
        Implementation::Route => "#d4a72c",
        Implementation::Dnat => "#bc4c00",
        Implementation::Direct => "#000000",
    };
    writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\
         <text x=\"{:.1}\" y=\"{middle:.1}\">{cost:.2} {}</text>",
        BAR - 2.0,
        x + length + 5.0,
        row.implementation
    )
    .ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_of_a_case_stand_together_and_nothing_else_is_drawn() {
        let row = |implementation, sessions, cost| RelayRow {
            size: Some(200),
            segments: Some(1),
            relay_cost_us_per_packet: cost,
            ..RelayRow::new(implementation, "v4", sessions)
        };
        let results = RelayResults {
            rows: vec![
                row(Implementation::Direct, 1, None),
                row(Implementation::Go, 1, Some(12.5)),
                row(Implementation::Go, 64, Some(13.0)),
                row(Implementation::Socket, 1, Some(6.0)),
                row(Implementation::Route, 1, Some(-0.1)),
            ],
            ..RelayResults::default()
        };
        let counts: Vec<_> = groups(&results).iter().map(Vec::len).collect();
        assert_eq!(counts, [2, 1]);
        let svg = draw(&results);
        assert_eq!(svg.matches("<rect x=").count(), 3);
        assert!(svg.contains("12.50 go") && svg.contains("v4: 64 sessions, 200 B"));
    }
}
