//! YAML and JSON documents with the line of each value, parsed as kubectl does.

use std::{borrow::Cow, fmt, io::Cursor};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// Value and its line. The line is 0 if unknown.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Node {
    pub(in crate::cli) line: u64,
    content: Content,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Fields(Vec<(String, Node)>),
}

/// Parses the documents of a file and skips empty ones.
///
/// # Errors
/// The text is neither YAML nor JSON.
pub(in crate::cli) fn documents(bytes: &[u8]) -> Result<Vec<Node>, String> {
    if let Some(values) = json(bytes) {
        return Ok(values.into_iter().map(Node::from).collect());
    }
    let options = serde_saphyr::options! {
        // kubectl reads YAML 1.1: an unquoted `yes` is true, and `010` is 8.
        strict_booleans: false,
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let bytes = without_marks(bytes);
    let mut reader = Cursor::new(&*bytes);
    let documents = serde_saphyr::read_with_options::<_, Spanned<Content>>(&mut reader, options);
    documents
        .map(|document| document.map(Node::from).map_err(|error| reason(&error)))
        .collect()
}

/// Removes byte order marks at the beginning of lines: they remain when files are concatenated.
fn without_marks(bytes: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(bytes) {
        Ok(text) if text.contains("\n\u{feff}") => {
            Cow::Owned(text.replace("\n\u{feff}", "\n").into_bytes())
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// Returns the error without advice for programmers.
fn reason(error: &serde_saphyr::Error) -> String {
    let advice = ", set DuplicateKeyPolicy in Options if acceptable";
    error.to_string().replace(advice, "")
}

/// Parses a stream of JSON values. Returns nothing if the text is not JSON.
fn json(bytes: &[u8]) -> Option<Vec<Value>> {
    let begins = bytes.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if *begins != b'{' {
        return None;
    }
    let values = serde_json::Deserializer::from_slice(bytes).into_iter();
    values.collect::<Result<_, _>>().ok()
}

impl Node {
    /// Returns the value without lines.
    pub(in crate::cli) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(entries) => entries.iter().map(Self::value).collect(),
            Content::Fields(fields) => {
                let fields = fields.iter();
                Value::Object(
                    fields
                        .map(|(n, value)| (n.clone(), value.value()))
                        .collect(),
                )
            }
        }
    }

    /// Returns a field of an object.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.content {
            Content::Fields(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Returns the string in a field of an object.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.field(name)?.content {
            Content::Scalar(value) => value.as_str(),
            _ => None,
        }
    }

    /// Returns the entries of a list.
    pub(super) fn entries(&self) -> Option<&[Self]> {
        match &self.content {
            Content::List(entries) => Some(entries),
            _ => None,
        }
    }

    /// Returns the items of a Kubernetes list. Items of a typed list may lack `apiVersion` and
    /// `kind`, which are added. Returns nothing for other objects.
    pub(in crate::cli) fn items(&self) -> Option<Vec<Self>> {
        let of = self.text("kind")?.strip_suffix("List")?;
        let version = self.text("apiVersion").unwrap_or_default();
        let items = self.field("items")?.entries()?.iter().cloned();
        let complete = |item: Self| match of {
            "" => item,
            of => item.or_field("apiVersion", version).or_field("kind", of),
        };
        Some(items.map(complete).collect())
    }

    /// Returns whether the value is an object.
    pub(super) fn is_object(&self) -> bool {
        matches!(self.content, Content::Fields(_))
    }

    /// Adds a field to an object that lacks it.
    pub(super) fn or_field(mut self, name: &str, value: &str) -> Self {
        if let Content::Fields(fields) = &mut self.content
            && !fields.iter().any(|(n, _)| n == name)
        {
            fields.push((name.to_owned(), Value::from(value).into()));
        }
        self
    }

    /// Returns the line of the value at a path. If there is none, returns the line of the nearest
    /// parent.
    pub(in crate::cli) fn line_of(&self, path: &str) -> u64 {
        let mut node = self;
        let mut rest = path;
        while let Some(next) = node.step(&mut rest) {
            node = next;
        }
        node.line
    }

    /// Follows one step of a path such as `regions[0].tag`. A field name may contain dots.
    fn step(&self, rest: &mut &str) -> Option<&Self> {
        let path = rest.trim_start_matches('.');
        match &self.content {
            Content::Scalar(_) => None,
            Content::List(entries) => {
                let (at, after) = path.strip_prefix('[')?.split_once(']')?;
                *rest = after;
                entries.get(at.parse::<usize>().ok()?)
            }
            Content::Fields(fields) => {
                let goes_on = |after: &str| after.is_empty() || after.starts_with(['.', '[']);
                let (name, next) = fields
                    .iter()
                    .find(|(name, _)| path.strip_prefix(&**name).is_some_and(goes_on))?;
                *rest = &path[name.len()..];
                Some(next)
            }
        }
    }
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Self {
        Self {
            line: spanned.referenced.line(),
            content: spanned.value,
        }
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let content = match value {
            Value::Array(entries) => Content::List(entries.into_iter().map(Self::from).collect()),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                Content::Fields(fields.map(|(name, v)| (name, v.into())).collect())
            }
            scalar => Content::Scalar(scalar),
        };
        Self { line: 0, content }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML that JSON can say too")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        // JSON has no fraction for a whole number: 40000.0 is 40000.
        let whole = value.fract() == 0.0 && value.abs() < 1e15;
        #[allow(clippy::cast_possible_truncation, reason = "it is whole and small")]
        let value = if whole {
            (value as i64).into()
        } else {
            value.into()
        };
        Ok(Content::Scalar(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element::<Spanned<Content>>()? {
            entries.push(entry.into());
        }
        Ok(Content::List(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, Spanned<Content>>()? {
            fields.push((name, value.into()));
        }
        Ok(Content::Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        let documents = documents(text.as_bytes()).unwrap();
        documents.iter().map(Node::value).collect()
    }

    #[test]
    fn yaml_is_read_as_kubectl_reads_it() {
        for (text, value) in [
            ("a: yes", json!({"a": true})),
            ("a: 'yes'", json!({"a": "yes"})),
            ("a: Off", json!({"a": false})),
            ("a: 010", json!({"a": 8})),
            ("a: 40000.0", json!({"a": 40_000})),
            ("a: 4e4", json!({"a": 40_000})),
            ("a: ~", json!({"a": null})),
            ("a:", json!({"a": null})),
            ("1: b", json!({"1": "b"})),
            ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
            (
                "a: &x {b: 1}\nc: {<<: *x, d: 2}",
                json!({"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
            ),
            ("\u{feff}a: 1", json!({"a": 1})),
            ("{\"a\":\t1}", json!({"a": 1})),
        ] {
            assert_eq!(values(text), [value], "{text}");
        }
        assert_eq!(
            values("# nothing\n---\na: 1\n---\n---\nb: 2\n...\n").len(),
            2
        );
        assert_eq!(values("{\"a\": 1}\n{\"b\": 2}").len(), 2);
        assert!(values("").is_empty());
    }

    #[test]
    fn definitions_are_read_as_they_are() {
        let wanted = crate::crd::all();
        let found = values(&crate::crd::to_yaml());
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.into_iter().zip(wanted) {
            // Read back, because whole numbers are written as floating-point numbers.
            let found: CustomResourceDefinition = serde_json::from_value(found).unwrap();
            assert!(found == wanted, "{}", wanted.metadata.name.unwrap());
        }
    }

    #[test]
    fn utf_16_of_other_shells_is_read() {
        let text = "\u{feff}a: 1\n";
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(documents(&bytes).unwrap()[0].value(), json!({"a": 1}));
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_the_line() {
        for text in [
            "a: 1\na: 2",
            "a: [1",
            "a: 1\n b: 2\n",
            "a: {{ .Values.port }}x: [",
        ] {
            let error = documents(text.as_bytes()).unwrap_err();
            assert!(error.contains("line"), "{text}: {error}");
        }
    }

    #[test]
    fn every_path_has_its_line() {
        let text = "a:\n  b:\n  - c: 1\n    d.e: 2\n  - c: 3\n";
        let node = &documents(text.as_bytes()).unwrap()[0];
        for (path, line) in [
            ("a.b[0].c", 3),
            ("a.b[0].d.e", 4),
            ("a.b[1].c", 5),
            ("a.b[1].missing.field", 5),
        ] {
            assert_eq!(node.line_of(path), line, "{path}");
        }
    }
}
