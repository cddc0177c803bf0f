//! Unified difference of two texts.

use std::fmt::Write as _;

/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// Line of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a> {
    Same(&'a str),
    Old(&'a str),
    New(&'a str),
}

/// Returns the difference in the unified format, as `diff -u` prints it. It is empty if the texts
/// are equal.
pub fn unified(name: &str, old: &str, new: &str) -> String {
    let lines = compare(old, new);
    let is_change = |line: &Line<'_>| !matches!(line, Line::Same(_));
    let changes: Vec<_> = (0..lines.len())
        .filter(|at| is_change(&lines[*at]))
        .collect();
    let mut hunks: Vec<std::ops::Range<usize>> = Vec::new();
    for at in changes {
        let (start, end) = (
            at.saturating_sub(CONTEXT),
            (at + CONTEXT + 1).min(lines.len()),
        );
        match hunks.last_mut() {
            Some(hunk) if hunk.end >= start => hunk.end = end,
            _ => hunks.push(start..end),
        }
    }
    let mut text = String::new();
    if !hunks.is_empty() {
        text = format!("--- {name}\n+++ {name} (merged)\n");
    }
    let (mut old_line, mut new_line, mut at) = (1, 1, 0);
    for hunk in hunks {
        (old_line, new_line) = advance(&lines[at..hunk.start], old_line, new_line);
        let (old_end, new_end) = advance(&lines[hunk.clone()], old_line, new_line);
        writeln!(
            text,
            "@@ -{old_line},{} +{new_line},{} @@",
            old_end - old_line,
            new_end - new_line
        )
        .expect("memory takes all text");
        for line in &lines[hunk.clone()] {
            let (sign, words) = match line {
                Line::Same(words) => (' ', words),
                Line::Old(words) => ('-', words),
                Line::New(words) => ('+', words),
            };
            text.push(sign);
            text.push_str(words);
            if !words.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
        (old_line, new_line, at) = (old_end, new_end, hunk.end);
    }
    text
}

fn advance(lines: &[Line<'_>], old: usize, new: usize) -> (usize, usize) {
    let of_old = lines.iter().filter(|line| !matches!(line, Line::New(_)));
    let of_new = lines.iter().filter(|line| !matches!(line, Line::Old(_)));
    (old + of_old.count(), new + of_new.count())
}

/// Compares texts line by line with the greedy algorithm of Myers: it finds the fewest changes.
fn compare<'a>(old: &'a str, new: &'a str) -> Vec<Line<'a>> {
    let old: Vec<_> = old.split_inclusive('\n').collect();
    let new: Vec<_> = new.split_inclusive('\n').collect();
    let same = old.iter().zip(&new).take_while(|(one, other)| one == other);
    let start = same.count();
    let (a, b) = (&old[start..], &new[start..]);
    let mut lines: Vec<_> = old[..start].iter().map(|line| Line::Same(line)).collect();
    let trace = furthest(a, b);
    let (mut x, mut y) = (a.len(), b.len());
    let mut rest = Vec::new();
    for (depth, reached) in trace.iter().enumerate().rev() {
        let (previous_x, previous_y) = previous(reached, depth, x, y);
        while x > previous_x && y > previous_y {
            (x, y) = (x - 1, y - 1);
            rest.push(Line::Same(a[x]));
        }
        if depth == 0 {
            break;
        }
        match x == previous_x {
            true => rest.push(Line::New(b[previous_y])),
            false => rest.push(Line::Old(a[previous_x])),
        }
        (x, y) = (previous_x, previous_y);
    }
    lines.extend(rest.into_iter().rev());
    lines
}

/// Returns, for each number of changes, the furthest positions before that change. Position `k` of
/// a step belongs to the diagonal `k - changes - 1`.
fn furthest(a: &[&str], b: &[&str]) -> Vec<Vec<usize>> {
    let mut trace: Vec<Vec<usize>> = Vec::new();
    let mut reached = vec![0; 3];
    for depth in 0.. {
        trace.push(reached.clone());
        let mut next = vec![0; reached.len() + 2];
        for step in (0..=2 * depth).step_by(2) {
            // Place of diagonal `step - depth` in `reached`.
            let place = step + 1;
            let down = step == 0 || (step != 2 * depth && reached[place - 1] < reached[place + 1]);
            let mut x = match (depth, down) {
                (0, _) => 0,
                (_, true) => reached[place + 1],
                (_, false) => reached[place - 1] + 1,
            };
            let mut y = x + depth - step;
            while x < a.len() && y < b.len() && a[x] == b[y] {
                (x, y) = (x + 1, y + 1);
            }
            next[place + 1] = x;
            if x >= a.len() && y >= b.len() {
                return trace;
            }
        }
        reached = next;
    }
    trace
}

/// Returns the position before the last change on the way to a position.
fn previous(reached: &[usize], depth: usize, x: usize, y: usize) -> (usize, usize) {
    if depth == 0 {
        return (0, 0);
    }
    let step = x + depth - y;
    let place = step + 1;
    let down = step == 0 || (step != 2 * depth && reached[place - 1] < reached[place + 1]);
    let (x, diagonal_step) = match down {
        true => (reached[place + 1], step + 1),
        false => (reached[place - 1], step - 1),
    };
    (x, x + depth - diagonal_step)
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
    fn comparison_contains_both_texts() {
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
            let lines = compare(&old, &new);
            let of = |without: fn(&Line<'_>) -> bool| -> String {
                let lines = lines.iter().filter(|line| !without(line));
                lines
                    .map(|line| match line {
                        Line::Same(text) | Line::Old(text) | Line::New(text) => *text,
                    })
                    .collect()
            };
            assert_eq!(of(|line| matches!(line, Line::New(_))), old);
            assert_eq!(of(|line| matches!(line, Line::Old(_))), new);
        }
    }
}
