//! Parser of policy files: a tree with the position of every value, comment and comma.

use std::ops::Range;

use jsonc_parser::{
    ParseOptions,
    cst::{CstContainerNode, CstLeafNode, CstNewlineKind, CstNode, CstRootNode},
};

use super::error::{PolicyFault, PolicyFileError, line};

const BYTE_ORDER_MARK: char = '\u{feff}';
/// Syntax of HuJSON. The library allows more by default.
const HUJSON: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Policy file that was parsed.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) text: String,
    /// Object of the whole policy.
    pub(super) root: Container,
}

/// Object or array.
#[derive(Debug, Clone)]
pub(super) struct Container {
    /// Range from the opening to the closing bracket, including both.
    pub(super) range: Range<usize>,
    /// Contents between the brackets, in order. Together they cover every byte.
    pub(super) children: Vec<Child>,
}

/// Part of an object or array.
#[derive(Debug, Clone)]
pub(super) enum Child {
    /// Spaces and tabs.
    Space(Range<usize>),
    /// Line feed, with or without a carriage return.
    Newline(Range<usize>),
    Comment(Range<usize>),
    Comma(Range<usize>),
    Entry(Entry),
}

/// Member of an object or element of an array.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Name of a member. Elements of arrays have none.
    pub(super) name: Option<String>,
    /// Range from the name to the end of the value.
    pub(super) range: Range<usize>,
    pub(super) value: Value,
    pub(super) value_range: Range<usize>,
}

/// Value of an entry.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Object(Container),
    Array(Container),
    Text(String),
    Null,
    /// Number or boolean.
    Other,
}

impl Document {
    /// Parses a policy file.
    ///
    /// # Errors
    /// The text is not HuJSON, or not an object.
    pub(super) fn parse(text: &str) -> Result<Self, PolicyFileError> {
        if text.starts_with(BYTE_ORDER_MARK) {
            return Err(PolicyFileError::at(text, 0, PolicyFault::ByteOrderMark));
        }
        let root = CstRootNode::parse(text, &HUJSON).map_err(|error| {
            let message = error.kind().to_string();
            let mut letters = message.chars();
            let first = letters.next().map(|letter| letter.to_ascii_lowercase());
            let message = first.into_iter().chain(letters).collect();
            PolicyFileError::at(text, error.range().start, PolicyFault::Syntax(message))
        })?;
        let mut reader = Reader { text, at: 0 };
        let children = reader.children(root.children())?;
        let mut entries = children.into_iter().filter_map(|child| match child {
            Child::Entry(entry) => Some(entry),
            _ => None,
        });
        let end = text.trim_end().len();
        let Some(entry) = entries.next() else {
            return Err(PolicyFileError::at(text, end, PolicyFault::Empty));
        };
        match entry.value {
            Value::Object(root) => Ok(Self {
                text: text.to_owned(),
                root,
            }),
            _ => Err(PolicyFileError::at(
                text,
                entry.range.start,
                PolicyFault::NotAnObject,
            )),
        }
    }

    /// Returns the first name that an object repeats, with its position and the line of the first
    /// use. Objects of the policy itself are compared without regard to case, as the control server
    /// reads their names. Names that the user chose, such as tags, are compared exactly.
    pub(super) fn duplicate(&self) -> Option<PolicyFileError> {
        self.duplicate_in(&self.root, 0)
    }

    fn duplicate_in(&self, container: &Container, depth: usize) -> Option<PolicyFileError> {
        // The policy itself, and the rules in its lists.
        // Go's encoding/json finds the fields of a struct without regard to case, and the keys of a map
        // exactly.
        let folded = matches!(depth, 0 | 2);
        let key = |name: &str| match folded {
            true => name.to_ascii_lowercase(),
            false => name.to_owned(),
        };
        let mut seen = std::collections::BTreeMap::new();
        for entry in container.entries() {
            if let Some(name) = &entry.name
                && let Some(first) = seen.insert(key(name), entry.range.start)
            {
                let fault = PolicyFault::Duplicate(name.clone(), line(&self.text, first));
                return Some(PolicyFileError::at(&self.text, entry.range.start, fault));
            }
            let found = match &entry.value {
                Value::Object(inside) if depth == 0 => self.duplicate_in(inside, 1),
                Value::Array(inside) if depth == 0 => self.duplicate_in(inside, 1),
                Value::Object(inside) if container.is_array(&self.text) => {
                    self.duplicate_in(inside, depth + 1)
                }
                Value::Object(inside) | Value::Array(inside) => self.duplicate_in(inside, 3),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Returns whether the policy has a section that is not null.
    pub(super) fn has(&self, section: &str) -> bool {
        let member = self.root.member(section);
        // Control servers read null as a missing section. An empty list is different: it allows nothing.
        member.is_some_and(|member| !matches!(member.value, Value::Null))
    }

    /// Returns the text of a range.
    pub(super) fn slice(&self, range: &Range<usize>) -> &str {
        &self.text[range.clone()]
    }

    /// Returns the line of a position. The first line is 1.
    pub(super) fn line(&self, position: usize) -> usize {
        line(&self.text, position)
    }
}

impl Container {
    /// Returns the members or elements, in order.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.children.iter().filter_map(|child| match child {
            Child::Entry(entry) => Some(entry),
            _ => None,
        })
    }

    /// Returns the names of the members, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries().filter_map(|entry| entry.name.as_deref())
    }

    /// Returns the last member with a name, without regard to case.
    pub(super) fn member(&self, name: &str) -> Option<&Entry> {
        // Of members with the same name, Go's encoding/json uses the last one.
        self.entries().rev().find(|entry| {
            let own = entry.name.as_deref();
            own.is_some_and(|own| own.eq_ignore_ascii_case(name))
        })
    }

    /// Returns the texts of a list, or nothing if an element is not text.
    pub(super) fn texts(&self) -> Option<Vec<&str>> {
        self.entries().map(Entry::text).collect()
    }

    /// Returns the position after the opening bracket.
    pub(super) const fn open(&self) -> usize {
        self.range.start + 1
    }

    /// Returns whether the contents span several lines.
    pub(super) fn has_newline(&self) -> bool {
        let mut children = self.children.iter();
        children.any(|child| matches!(child, Child::Newline(_)))
    }

    fn is_array(&self, text: &str) -> bool {
        text[self.range.clone()].starts_with('[')
    }
}

impl Entry {
    /// Returns the value if it is a text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value if it is an object.
    pub(super) const fn object(&self) -> Option<&Container> {
        match &self.value {
            Value::Object(container) => Some(container),
            _ => None,
        }
    }

    /// Returns the value if it is an array.
    pub(super) const fn array(&self) -> Option<&Container> {
        match &self.value {
            Value::Array(container) => Some(container),
            _ => None,
        }
    }
}

impl Child {
    /// Returns the range of the part.
    pub(super) const fn range(&self) -> &Range<usize> {
        match self {
            Self::Space(range) | Self::Newline(range) | Self::Comment(range) => range,
            Self::Comma(range) => range,
            Self::Entry(entry) => &entry.range,
        }
    }

    /// Returns whether the part is only layout.
    pub(super) const fn is_blank(&self) -> bool {
        matches!(self, Self::Space(_) | Self::Newline(_))
    }
}

/// Reader of the syntax tree. It adds the lengths of the leaves, because the library does not keep
/// positions, and checks what the library does not.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn children(&mut self, nodes: Vec<CstNode>) -> Result<Vec<Child>, PolicyFileError> {
        let mut children = Vec::new();
        for node in nodes {
            let start = self.at;
            let child = match node {
                CstNode::Container(CstContainerNode::ObjectProp(member)) => {
                    Some(Child::Entry(self.member(&member.children(), start)?))
                }
                CstNode::Container(container) => {
                    let value = self.container(&container)?;
                    Some(Child::Entry(self.entry(None, start, start, value)))
                }
                CstNode::Leaf(leaf) => self.leaf(&leaf)?,
            };
            children.extend(child);
        }
        Ok(children)
    }

    fn member(&mut self, nodes: &[CstNode], start: usize) -> Result<Entry, PolicyFileError> {
        let mut parts = self.children(nodes.to_vec())?.into_iter();
        let name = parts.next();
        let value = parts.next_back();
        let (Some(Child::Entry(name)), Some(Child::Entry(value))) = (name, value) else {
            return Err(self.syntax(start, "expected a name and a value"));
        };
        let Value::Text(name) = name.value else {
            return Err(self.syntax(start, "expected a name in quotation marks"));
        };
        let at = value.range.start;
        Ok(self.entry(Some(name), start, at, value.value))
    }

    fn container(&mut self, node: &CstContainerNode) -> Result<Value, PolicyFileError> {
        let start = self.at;
        let children = self.children(node.children())?;
        let range = start..self.at;
        let container = Container { range, children };
        Ok(match node.is_array() {
            true => Value::Array(container),
            false => Value::Object(container),
        })
    }

    fn leaf(&mut self, leaf: &CstLeafNode) -> Result<Option<Child>, PolicyFileError> {
        let start = self.at;
        let raw = leaf.to_string();
        self.at += raw.len();
        let range = start..self.at;
        Ok(Some(match leaf {
            CstLeafNode::Whitespace(_) => {
                // The library takes control characters and the no-break space as space, which
                // tailscale/hujson refuses.
                let odd = raw
                    .char_indices()
                    .find(|(_, letter)| !" \t".contains(*letter));
                if let Some((at, letter)) = odd {
                    return Err(self.fault(start + at, PolicyFault::Character(letter)));
                }
                Child::Space(range)
            }
            CstLeafNode::Newline(newline) if newline.kind() == CstNewlineKind::CarriageReturn => {
                return Err(self.fault(start, PolicyFault::Character('\r')));
            }
            CstLeafNode::Newline(_) => Child::Newline(range),
            CstLeafNode::Comment(comment) => {
                // The library accepts such a comment at the end of a file, and tailscale/hujson refuses
                // it.
                if comment.is_line_comment() && !self.is_at_line_feed() {
                    return Err(self.fault(start, PolicyFault::OpenComment));
                }
                Child::Comment(range)
            }
            CstLeafNode::Token(token) if token.value() == ',' => Child::Comma(range),
            CstLeafNode::Token(_) => return Ok(None),
            CstLeafNode::StringLit(_) => {
                let value = Value::Text(self.json(start, &raw)?);
                Child::Entry(self.entry(None, start, start, value))
            }
            CstLeafNode::NumberLit(_) => {
                self.json::<&serde_json::value::RawValue>(start, &raw)?;
                Child::Entry(self.entry(None, start, start, Value::Other))
            }
            CstLeafNode::BooleanLit(_) => {
                Child::Entry(self.entry(None, start, start, Value::Other))
            }
            CstLeafNode::NullKeyword(_) => {
                Child::Entry(self.entry(None, start, start, Value::Null))
            }
            CstLeafNode::WordLit(_) => return Err(self.syntax(start, "expected a value")),
        }))
    }

    /// Parses a text or a number as JSON, which is stricter than the library.
    fn json<'j, T: serde::Deserialize<'j>>(
        &self,
        start: usize,
        raw: &'j str,
    ) -> Result<T, PolicyFileError> {
        serde_json::from_str(raw).map_err(|error| {
            let message = error.to_string();
            let end = message.find(" at line ").unwrap_or(message.len());
            self.syntax(start, &message[..end])
        })
    }

    fn is_at_line_feed(&self) -> bool {
        let rest = &self.text[self.at..];
        rest.starts_with('\n') || rest.starts_with("\r\n")
    }

    const fn entry(&self, name: Option<String>, start: usize, at: usize, value: Value) -> Entry {
        Entry {
            name,
            range: start..self.at,
            value,
            value_range: at..self.at,
        }
    }

    fn syntax(&self, at: usize, message: &str) -> PolicyFileError {
        self.fault(at, PolicyFault::Syntax(message.to_owned()))
    }

    fn fault(&self, at: usize, fault: PolicyFault) -> PolicyFileError {
        PolicyFileError::at(self.text, at, fault)
    }
}
