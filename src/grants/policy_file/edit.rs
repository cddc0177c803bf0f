//! Edits of a policy file: insertions and removals of entries in the layout of the file.

use std::ops::Range;

use super::{
    document::{Child, Container, Document, Entry},
    marker::Marker,
};

/// Indentation of a file that shows none.
const UNIT: &str = "  ";

/// Change of a text: replacements of ranges that do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit(Vec<(Range<usize>, String)>);

/// Layout of an inserted entry.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// End of line, or nothing if the file is a single line.
    pub(super) newline: &'static str,
    /// Indentation of the line on which the entry begins.
    pub(super) indent: String,
    /// Additional indentation of each level.
    pub(super) unit: String,
    /// Comma after the last entry of a list, if the file has such commas.
    pub(super) trailing: &'static str,
}

/// Place of an inserted entry in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement<'a> {
    /// A line of its own, below its marker.
    Marked(&'a Marker),
    /// A line of its own.
    Line,
    /// The line of its list, if the list is on one line.
    Inline,
}

impl Edit {
    /// Creates an edit that replaces a range.
    pub(super) fn replace(range: Range<usize>, text: impl Into<String>) -> Self {
        Self(vec![(range, text.into())])
    }

    /// Returns an edit with the replacements of both. They must not overlap.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns the text after the edit.
    pub(super) fn apply(mut self, text: &str) -> String {
        // Insertions at one position stay in their order, because the sort is stable.
        self.0.sort_by_key(|(range, _)| range.start);
        let mut edited = String::with_capacity(text.len());
        let mut at = 0;
        for (range, new) in self.0 {
            edited.push_str(&text[at..range.start]);
            edited.push_str(&new);
            at = range.end;
        }
        edited.push_str(&text[at..]);
        edited
    }
}

/// Inserts an entry at the end of an object or array. `render` returns its text.
pub(super) fn insert(
    document: &Document,
    container: &Container,
    placement: Placement<'_>,
    render: impl Fn(&Layout) -> String,
) -> Edit {
    let children = &container.children;
    let significant = children.iter().rev().find(|child| !child.is_blank());
    let end = significant.map_or_else(|| container.open(), |child| child.range().end);
    let is_last = |child: &&Child| matches!(child, Child::Comma(_) | Child::Entry(_));
    let last = children.iter().rev().find(is_last);
    let layout = layout(document, container);
    let mut edit = Edit(Vec::new());
    let mut trailing = layout.trailing;
    match last {
        Some(Child::Entry(entry)) => {
            edit = Edit::replace(entry.range.end..entry.range.end, ",");
            trailing = "";
        }
        Some(_) => trailing = ",",
        None => {}
    }
    let entry = render(&layout);
    let inline = placement == Placement::Inline && !container.has_newline();
    let text = if layout.newline.is_empty() || inline {
        let comment = match placement {
            Placement::Marked(marker) => format!("{} ", marker.block_comment()),
            _ => String::new(),
        };
        let space = if last.is_some() { " " } else { "" };
        let trailing = if inline && last.is_none() {
            ""
        } else {
            trailing
        };
        format!("{space}{comment}{entry}{trailing}")
    } else {
        let start = format!("{}{}", layout.newline, layout.indent);
        let comment = match placement {
            Placement::Marked(marker) => format!("{start}{}", marker.line_comment()),
            _ => String::new(),
        };
        let rest = &document.text[end..container.range.end - 1];
        let close = match rest.contains('\n') {
            true => String::new(),
            false => format!("{}{}", layout.newline, close_indent(document, container)),
        };
        format!("{comment}{start}{entry}{trailing}{close}")
    };
    edit.and(Edit::replace(end..end, text))
}

/// Removes an entry with its marker, its comma, and the comment that follows on its line.
pub(super) fn remove(
    document: &Document,
    container: &Container,
    child: usize,
    marker: Option<usize>,
) -> Edit {
    let children = &container.children;
    let first = marker.unwrap_or(child);
    let before = children[..first].iter().rev().find(|c| !c.is_blank());
    let start = before.map_or_else(|| container.open(), |child| child.range().end);
    let (mut end, next) = end_of(children, child);
    let mut edit = Edit(Vec::new());
    let rest = &children[next..];
    if !has_comma(&children[child + 1..])
        && let Some(Child::Comma(comma)) = children[..first]
            .iter()
            .rev()
            .find(|child| matches!(child, Child::Comma(_)))
    {
        edit = Edit::replace(comma.clone(), "");
    }
    if before.is_none() && !rest.iter().any(|child| matches!(child, Child::Newline(_))) {
        let blank = rest.iter().take_while(|child| child.is_blank());
        end = blank.last().map_or(end, |child| child.range().end);
    }
    if before.is_none() && rest.iter().all(Child::is_blank) {
        end = container.range.end - 1;
    }
    let blank = rest.iter().take_while(|child| child.is_blank());
    let ends_line = blank
        .into_iter()
        .any(|child| matches!(child, Child::Newline(_)));
    let is_line = |child: &Child| matches!(child, Child::Comment(range) if document.slice(range).starts_with("//"));
    // Without a line break, the rest of the list would become a part of the comment before it.
    let text = match before.is_some_and(is_line) && !ends_line {
        true => newline(document),
        false => "",
    };
    // The removed comma may be the child before: the range must not contain it twice.
    edit.and(Edit::replace(start..end, text))
}

/// Returns the end of an entry with its comma and the comments on the rest of its line, and the next
/// child. If another entry follows on the line, comments belong to that one.
fn end_of(children: &[Child], child: usize) -> (usize, usize) {
    let mut end = (children[child].range().end, child + 1);
    let mut with_comments = end;
    let mut comma = false;
    for (at, next) in children.iter().enumerate().skip(child + 1) {
        match next {
            Child::Space(_) => {}
            Child::Comma(range) if !comma => {
                comma = true;
                end = (range.end, at + 1);
                with_comments = end;
            }
            Child::Comment(range) => with_comments = (range.end, at + 1),
            // The comma may be on a later line.
            Child::Newline(_) if !comma && has_comma(&children[at..]) => {}
            Child::Newline(_) => return with_comments,
            Child::Comma(_) | Child::Entry(_) => return end,
        }
    }
    with_comments
}

fn has_comma(children: &[Child]) -> bool {
    let mut children = children.iter();
    let next = children.find(|child| matches!(child, Child::Comma(_) | Child::Entry(_)));
    matches!(next, Some(Child::Comma(_)))
}

/// Returns the layout of a new entry of an object or array.
fn layout(document: &Document, container: &Container) -> Layout {
    let close = close_indent(document, container);
    let indents = container.entries().rev();
    let own = indents
        .filter_map(|entry| indent_of(document, entry))
        .next();
    let unit = own
        .and_then(|own| own.strip_prefix(close))
        .filter(|unit| !unit.is_empty());
    let of_root = || {
        let first = document.root.entries().next();
        let first = first.and_then(|entry| indent_of(document, entry));
        first.filter(|indent| !indent.is_empty()).unwrap_or(UNIT)
    };
    let unit = unit.unwrap_or_else(of_root).to_owned();
    Layout {
        newline: newline(document),
        indent: own.map_or_else(|| format!("{close}{unit}"), str::to_owned),
        trailing: match has_trailing_commas(&document.root) {
            true => ",",
            false => "",
        },
        unit,
    }
}

/// Returns the end of a line in the file, or nothing for a file with one line.
pub(super) fn newline(document: &Document) -> &'static str {
    let text = document.text.trim_end();
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        Some(_) => "\n",
        None if document.root.entries().next().is_none() => "\n",
        None => "",
    }
}

/// Returns the indentation of an entry that begins a line.
pub(super) fn indent_of<'a>(document: &'a Document, entry: &Entry) -> Option<&'a str> {
    let start = document.text[..entry.range.start]
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let indent = &document.text[start..entry.range.start];
    let is_first = start > 0 && indent.chars().all(|letter| " \t".contains(letter));
    is_first.then_some(indent)
}

/// Returns the indentation of the line on which a list begins.
fn close_indent<'a>(document: &'a Document, container: &Container) -> &'a str {
    let text = &document.text;
    let start = text[..container.range.start]
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let line = &text[start..];
    let length = line.find(|letter| !" \t".contains(letter));
    &line[..length.unwrap_or(0)]
}

/// Returns whether an object or array of the file has a comma after its last entry.
fn has_trailing_commas(container: &Container) -> bool {
    use super::document::Value;
    let is_last = |child: &&Child| matches!(child, Child::Comma(_) | Child::Entry(_));
    let last = container.children.iter().rev().find(is_last);
    matches!(last, Some(Child::Comma(_)))
        || container.entries().any(|entry| match &entry.value {
            Value::Object(inside) | Value::Array(inside) => has_trailing_commas(inside),
            _ => false,
        })
}
