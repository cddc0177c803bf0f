//! Reader of an object that names every field it does not understand.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::note::{Notes, Place};

const UNKNOWN: &str = "unknown field, which this version cannot convert: check its spelling, and \
                       convert it by hand if it matters";
const WRONG_TYPE: &str = "the value has the wrong type: correct it, and convert again";

/// Fields of an object that are not read yet.
pub(super) struct Fields {
    document: usize,
    path: String,
    rest: Map<String, Value>,
}

impl Fields {
    /// Creates a reader of a document.
    pub(super) fn of(document: &Value, index: usize) -> Self {
        Self {
            document: index,
            path: String::new(),
            rest: document.as_object().cloned().unwrap_or_default(),
        }
    }

    /// Returns the place of a field. An empty name stands for the object.
    pub(super) fn place(&self, name: &str) -> Place {
        Place {
            document: self.document,
            path: self.path_of(name),
        }
    }

    /// Takes a field that is set.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.rest.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that has a type. Unknown fields inside and values of another type are noted.
    pub(super) fn typed<T: DeserializeOwned>(
        &mut self,
        name: &str,
        notes: &mut Notes,
    ) -> Option<T> {
        let value = self.take(name)?;
        let mut unknown = Vec::new();
        let note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
        let Ok(typed) = serde_ignored::deserialize(value, note) else {
            notes.lost(self.place(name), WRONG_TYPE);
            return None;
        };
        for inner in unknown {
            // A question mark stands for an optional value.
            let inner = inner.replace(".?", "").replace("?.", "");
            notes.lost(self.place(&format!("{name}.{}", shown(&inner))), UNKNOWN);
        }
        Some(typed)
    }

    /// Takes a field that is an object. It is empty if the field is not set.
    pub(super) fn object(&mut self, name: &str, notes: &mut Notes) -> Self {
        let rest = match self.take(name) {
            None => Map::new(),
            Some(Value::Object(fields)) => fields,
            Some(_) => {
                notes.lost(self.place(name), WRONG_TYPE);
                Map::new()
            }
        };
        Self {
            document: self.document,
            path: self.path_of(name),
            rest,
        }
    }

    /// Takes a field that has no counterpart, and notes that it is lost.
    pub(super) fn lose(&mut self, name: &str, reason: &str, notes: &mut Notes) {
        if self.take(name).is_some_and(|value| is_set(&value)) {
            notes.lost(self.place(name), reason);
        }
    }

    /// Takes a field that is not needed, and notes that it is not converted.
    pub(super) fn drop_unneeded(&mut self, name: &str, reason: &str, notes: &mut Notes) {
        if self.take(name).is_some_and(|value| is_set(&value)) {
            notes.changed(self.place(name), reason);
        }
    }

    /// Returns the names of the fields that are not read yet.
    pub(super) fn names(&self) -> Vec<String> {
        self.rest.keys().cloned().collect()
    }

    /// Notes every field that was not read.
    pub(super) fn finish(self, notes: &mut Notes) {
        for (name, value) in &self.rest {
            if !value.is_null() {
                notes.lost(self.place(name), UNKNOWN);
            }
        }
    }

    fn path_of(&self, name: &str) -> String {
        match (self.path.is_empty(), name.is_empty()) {
            (_, true) => self.path.clone(),
            (true, false) => shown(name),
            (false, false) => format!("{}.{}", self.path, shown(name)),
        }
    }
}

/// Returns a name of the input for messages and comments, without control characters and line
/// breaks, and cut to a length that fits a line.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 100;
    let breaks = |letter: char| letter.is_control() || (letter.is_whitespace() && letter != ' ');
    let plain = |letter: char| match breaks(letter) {
        true => '\u{fffd}',
        false => letter,
    };
    name.chars().take(LONGEST).map(plain).collect()
}

/// Returns whether a value says more than the absence of its field.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(entries) => !entries.is_empty(),
        Value::Object(fields) => fields.values().any(is_set),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_are_not_read_are_named() {
        let document = json!({"spec": {"a": 1, "b": {"c\nd": 2}, "empty": null}});
        let mut notes = Notes::default();
        let mut fields = Fields::of(&document, 3);
        let mut spec = fields.object("spec", &mut notes);
        assert_eq!(spec.typed::<u8>("a", &mut notes), Some(1));
        let inner = spec.object("b", &mut notes);
        inner.finish(&mut notes);
        spec.finish(&mut notes);
        fields.finish(&mut notes);
        let notes = notes.sorted();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let place = &notes[0].place;
        assert_eq!(
            (place.document, &*place.path),
            (3, "spec.b.c\u{fffd}d"),
            "{notes:?}"
        );
    }

    #[test]
    fn values_of_another_type_are_named_without_the_value() {
        let document = json!({"a": "secret", "b": "secret", "c": {"d": 1}});
        let mut notes = Notes::default();
        let mut fields = Fields::of(&document, 0);
        assert_eq!(fields.typed::<u8>("a", &mut notes), None);
        fields.object("b", &mut notes).finish(&mut notes);
        let map = fields.typed::<BTreeMap<String, String>>("c", &mut notes);
        assert_eq!(map, None);
        let notes = notes.sorted();
        let paths: Vec<_> = notes.iter().map(|note| &*note.place.path).collect();
        assert_eq!(paths, ["a", "b", "c"]);
        assert!(!format!("{notes:?}").contains("secret"));
    }
}
