//! Structural schema: defaults, unknown fields, and checks of values.

use std::collections::HashSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps as Schema, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::bytes::RegexBuilder;
use serde_json::Value;

use super::Problem;

/// Returns the schema of any string.
pub(super) fn text() -> Schema {
    Schema {
        type_: Some("string".to_owned()),
        ..Schema::default()
    }
}

/// Adds defaults, also in place of nulls that the schema does not allow.
pub(super) fn fill_in(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in schema.properties.iter().flatten() {
                let is_missing = fields
                    .get(name)
                    .is_none_or(|value| value.is_null() && !is_nullable(property));
                if let Some(default) = &property.default
                    && is_missing
                {
                    fields.insert(name.clone(), default.0.clone());
                }
            }
            for (name, value) in fields {
                if let Some(property) = property(schema, name) {
                    fill_in(property, value);
                }
            }
        }
        Value::Array(entries) => {
            if let Some(entry) = entry(schema) {
                entries.iter_mut().for_each(|value| fill_in(entry, value));
            }
        }
        _ => {}
    }
}

/// Finds fields that are not in the schema.
pub(super) fn unknown_fields(schema: &Schema, value: &Value, problems: &mut Vec<Problem>) {
    unknown(schema, value, "", problems);
}

fn unknown(schema: &Schema, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = join(path, name);
                match property(schema, name) {
                    Some(property) => unknown(property, value, &path, problems),
                    None => problems.push(Problem::new(path, unknown_message(schema, name))),
                }
            }
        }
        Value::Array(entries) => {
            if let Some(entry) = entry(schema) {
                for (at, value) in entries.iter().enumerate() {
                    unknown(entry, value, &format!("{path}[{at}]"), problems);
                }
            }
        }
        _ => {}
    }
}

fn unknown_message(schema: &Schema, name: &str) -> String {
    let known: Vec<_> = schema.properties.iter().flatten().map(|(n, _)| n).collect();
    if let Some(meant) = known.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        return format!("unknown field: write {meant}");
    }
    match known.is_empty() {
        true => "unknown field: remove it".to_owned(),
        false => format!(
            "unknown field: correct or remove it; the fields here are {}",
            listed(known.iter())
        ),
    }
}

/// Checks the values of an object. Returns false if a value is missing or has another type, because
/// rules about several fields cannot be evaluated then.
pub(super) fn check(schema: &Schema, object: &Value, problems: &mut Vec<Problem>) -> bool {
    let mut checker = Checker {
        problems,
        sound: true,
    };
    checker.value(schema, object, "");
    checker.sound
}

struct Checker<'a> {
    problems: &'a mut Vec<Problem>,
    sound: bool,
}

impl Checker<'_> {
    fn value(&mut self, schema: &Schema, value: &Value, path: &str) {
        if value.is_null() && is_nullable(schema) {
            return;
        }
        if let Some(mut wanted) = type_error(schema, value) {
            if let ("a whole number", Some(least), Some(most)) =
                (&*wanted, schema.minimum, schema.maximum)
            {
                wanted = format!("a whole number from {least} to {most}");
            }
            let found = type_name(value);
            self.unsound(path, format!("must be {wanted}, not {found}"));
            return;
        }
        if let Some(allowed) = &schema.enum_
            && !allowed.iter().any(|allowed| allowed.0 == *value)
        {
            let allowed: Vec<_> = allowed.iter().map(|a| a.0.as_str().unwrap_or("")).collect();
            self.refuse(path, format!("must be one of {}", listed(allowed.iter())));
        }
        match value {
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Array(entries) => self.list(schema, entries, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Number(number) => self.number(schema, number, path),
            _ => {}
        }
    }

    fn object(&mut self, schema: &Schema, fields: &serde_json::Map<String, Value>, path: &str) {
        for name in schema.required.iter().flatten() {
            if !fields.contains_key(name) {
                let described = property(schema, name).and_then(|p| p.description.as_deref());
                let message = match &*described.map(first_sentence).unwrap_or_default() {
                    "" => "is required".to_owned(),
                    what => format!("is required: {what}"),
                };
                self.unsound(&join(path, name), message);
            }
        }
        let count = i64::try_from(fields.len()).unwrap_or(i64::MAX);
        if let Some(most) = schema.max_properties.filter(|most| count > *most) {
            self.refuse(
                path,
                format!("must have at most {most} fields, not {count}"),
            );
        }
        for (name, value) in fields {
            if let Some(property) = property(schema, name) {
                self.value(property, value, &join(path, name));
            }
        }
    }

    fn list(&mut self, schema: &Schema, entries: &[Value], path: &str) {
        let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
        if let Some(message) = size(schema.min_items, schema.max_items, count, "entries") {
            self.refuse(path, message);
        }
        let Some(entry) = entry(schema) else { return };
        for (at, value) in entries.iter().enumerate() {
            self.value(entry, value, &format!("{path}[{at}]"));
        }
        self.duplicates(schema, entries, path);
    }

    fn duplicates(&mut self, schema: &Schema, entries: &[Value], path: &str) {
        let keys = match schema.x_kubernetes_list_type.as_deref() {
            Some("set") => &[][..],
            Some("map") => schema.x_kubernetes_list_map_keys.as_deref().unwrap_or(&[]),
            _ => return,
        };
        let mut seen = HashSet::new();
        for (at, value) in entries.iter().enumerate() {
            let own: Vec<_> = keys.iter().map(|key| &value[key]).collect();
            let (identity, field) = match keys {
                [] => (value.to_string(), String::new()),
                keys => (format!("{own:?}"), format!(".{}", keys.join("+"))),
            };
            if !seen.insert(identity) {
                self.refuse(
                    &format!("{path}[{at}]{field}"),
                    "repeats an earlier entry: each must be unique".to_owned(),
                );
            }
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, path: &str) {
        // The API server counts characters and not bytes (`utf8.RuneCountInString`).
        let count = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(message) = size(schema.min_length, schema.max_length, count, "characters") {
            self.refuse(path, message);
            return;
        }
        // The message does not repeat the value, which may be a secret in the wrong place.
        if let Some(pattern) = &schema.pattern
            && !matches(pattern, text)
        {
            self.refuse(path, format!("must match {pattern}"));
        }
    }

    fn number(&mut self, schema: &Schema, number: &serde_json::Number, path: &str) {
        let value = number.as_f64().unwrap_or(f64::NAN);
        let low = schema.minimum.is_some_and(|least| value < least);
        let high = schema.maximum.is_some_and(|most| value > most);
        if low || high {
            let wanted = match (schema.minimum, schema.maximum) {
                (Some(least), Some(most)) => format!("{least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                (None, most) => format!("at most {}", most.unwrap_or_default()),
            };
            self.refuse(path, format!("must be {wanted}, not {number}"));
        }
    }

    fn refuse(&mut self, path: &str, message: String) {
        self.problems.push(Problem::new(path, message));
    }

    fn unsound(&mut self, path: &str, message: String) {
        self.sound = false;
        self.refuse(path, message);
    }
}

fn is_nullable(schema: &Schema) -> bool {
    schema.nullable == Some(true)
}

fn property<'a>(schema: &'a Schema, name: &str) -> Option<&'a Schema> {
    let own = schema.properties.as_ref().and_then(|p| p.get(name));
    own.or(match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    })
}

fn entry(schema: &Schema) -> Option<&Schema> {
    match &schema.items {
        Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(schema),
        _ => None,
    }
}

/// Returns the expected type if the value has another one.
fn type_error(schema: &Schema, value: &Value) -> Option<String> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        let fits = is_integer(value) || value.is_string();
        return (!fits).then(|| "a whole number or a string".to_owned());
    }
    let (fits, wanted) = match schema.type_.as_deref()? {
        "object" => (value.is_object(), "an object"),
        "array" => (value.is_array(), "a list"),
        "string" => (value.is_string(), "a string: put it in quotes"),
        "boolean" => (value.is_boolean(), "true or false"),
        "integer" => (is_integer(value), "a whole number"),
        "number" => (value.is_number(), "a number"),
        _ => return None,
    };
    let is_scalar = value.is_number() || value.is_boolean();
    let wanted = match wanted {
        "a string: put it in quotes" if !is_scalar => "a string",
        wanted => wanted,
    };
    (!fits).then(|| wanted.to_owned())
}

/// Returns the first sentence of a description on one line, without its full stop.
fn first_sentence(description: &str) -> String {
    let end = description.find(". ").or(description.find(".\n"));
    let sentence = &description[..end.unwrap_or(description.len())];
    sentence.trim_end_matches('.').replace('\n', " ")
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(true) => "true (an unquoted yes, on or true)",
        Value::Bool(false) => "false (an unquoted no, off or false)",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn size(least: Option<i64>, most: Option<i64>, count: i64, of: &str) -> Option<String> {
    match (least, most) {
        (Some(1), _) if count < 1 => Some("must not be empty".to_owned()),
        (Some(least), _) if count < least => {
            Some(format!("must have at least {least} {of}, not {count}"))
        }
        (_, Some(most)) if count > most => {
            Some(format!("must have at most {most} {of}, not {count}"))
        }
        _ => None,
    }
}

/// Matches as Go does: classes such as `\s` contain ASCII characters only.
fn matches(pattern: &str, text: &str) -> bool {
    let mut builder = RegexBuilder::new(pattern);
    let regex = builder.unicode(false).build();
    regex.is_ok_and(|regex| regex.is_match(text.as_bytes()))
}

fn join(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    }
}

fn listed<T: AsRef<str>>(words: impl Iterator<Item = T>) -> String {
    words
        .map(|word| word.as_ref().to_owned())
        .collect::<Vec<_>>()
        .join(", ")
}
