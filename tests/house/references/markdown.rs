//! Code, links and headings of a Markdown document.

use std::collections::BTreeSet;

/// Parts of a document that refer to the repository.
pub(crate) struct Document {
    /// Path relative to the root of the repository.
    pub(crate) path: String,
    /// Code in running text and tables. Cells below the heading "before" are left out: they hold names
    /// that no longer exist.
    pub(crate) spans: Vec<String>,
    /// Lines of code blocks. A line that a backslash continues is one with the next.
    pub(crate) lines: Vec<String>,
    /// Targets of links inside of the repository.
    pub(crate) links: Vec<String>,
    /// Headings, as links name them.
    pub(crate) headings: BTreeSet<String>,
}

impl Document {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut document = Self {
            path: path.to_owned(),
            spans: Vec::new(),
            lines: Vec::new(),
            links: Vec::new(),
            headings: BTreeSet::new(),
        };
        let mut is_block = false;
        let mut has_old_names = false;
        for line in text.replace("\\\n", " ").lines() {
            if line.trim_start().starts_with("```") {
                is_block = !is_block;
            } else if is_block {
                document.lines.push(line.to_owned());
            } else {
                has_old_names =
                    line.starts_with("| before |") || has_old_names && line.starts_with('|');
                document.read(line, has_old_names);
            }
        }
        document
    }

    fn read(&mut self, line: &str, has_old_names: bool) {
        if let Some(title) = line.strip_prefix('#') {
            self.headings.insert(anchor(title.trim_start_matches('#')));
        }
        let first = line.trim_start_matches('|').split('|').next();
        let skipped = first.filter(|_| has_old_names).unwrap_or_default();
        let text = &line[(line.len().min(skipped.len() + usize::from(has_old_names)))..];
        let codes = text.split('`').skip(1).step_by(2).map(str::to_owned);
        self.spans.extend(codes);
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                self.links.push(target.to_owned());
            }
        }
    }
}

/// The anchor that GitHub gives to a heading.
fn anchor(title: &str) -> String {
    let letters = title.trim().to_lowercase();
    let letters = letters.chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ => letter.is_alphanumeric().then_some(letter),
    });
    letters.collect()
}
