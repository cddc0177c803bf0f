//! Tables without borders, as kubectl prints them.

use std::fmt::Write as _;

/// Renders rows with aligned columns. Rows have the same number of cells.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line = cells.fold(String::new(), |mut line, (cell, width)| {
            let width = width.unwrap_or_default();
            write!(line, "{cell:width$}   ").expect("a string takes all");
            line
        });
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Returns the text, or the mark of an empty cell.
pub(super) fn cell(text: impl Into<String>) -> String {
    let text = text.into();
    match text.is_empty() {
        true => "-".to_owned(),
        false => text,
    }
}
