//! Unified difference of two texts.

use similar::TextDiff;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// Returns the difference in the unified format, as `diff -u` prints it. It is empty if the texts
/// are equal.
pub fn unified(name: &str, old: &str, new: &str) -> String {
    let difference = TextDiff::from_lines(old, new);
    let mut unified = difference.unified_diff();
    let unified = unified.context_radius(CONTEXT);
    unified
        .header(name, &format!("{name} (merged)"))
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_context_and_line_numbers() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
        let new = "a\nb\nc\nd\nX\nf\ng\nh\ni\nj\nk";
        let wanted = "--- p\n+++ p (merged)\n@@ -2,9 +2,10 @@\n b\n c\n d\n-e\n+X\n f\n g\n h\n i\n \
                      j\n+k\n\\ No newline at end of file\n";
        assert_eq!(unified("p", old, new), wanted);
        assert_eq!(unified("p", old, old), "");
        assert_eq!(unified("p", "", ""), "");
    }

    #[test]
    fn difference_leads_from_the_old_text_to_the_new_one_and_back() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            let mut text = || -> String {
                let length = random.random_range(0..12);
                (0..length)
                    .map(|_| ["a\n", "b\n", "c\n"][random.random_range(0..3)])
                    .collect()
            };
            let (old, new) = (text(), text());
            let unified = unified("p", &old, &new);
            assert_eq!(applied(&unified, &old, '-', '+'), new, "{unified}");
            assert_eq!(applied(&unified, &new, '+', '-'), old, "{unified}");
        }
    }

    /// Replaces the lines with the sign `from`, and those around them, as `patch` does.
    fn applied(unified: &str, text: &str, from: char, to: char) -> String {
        let mut lines = text.split_inclusive('\n');
        let mut result = String::new();
        let mut read = 0;
        for line in unified.split_inclusive('\n').skip(2) {
            if let Some(ranges) = line.strip_prefix("@@ ") {
                let range = ranges.split(' ').find(|range| range.starts_with(from));
                let mut numbers = range.unwrap_or_default()[1..].split(',');
                let start: usize = numbers.next().map_or(0, |n| n.parse().expect("a line"));
                // An empty range names the line before it.
                let before = start.saturating_sub(usize::from(numbers.next() != Some("0")));
                result.extend(lines.by_ref().take(before - read));
                read = before;
                continue;
            }
            let (sign, words) = line.split_at(1);
            if sign != to.to_string() {
                assert_eq!(lines.next(), Some(words), "{unified}");
                read += 1;
            }
            if sign != from.to_string() {
                result += words;
            }
        }
        result.extend(lines);
        result
    }
}
