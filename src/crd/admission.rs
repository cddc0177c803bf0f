//! Admission of a `PeerRelay` or `TailnetCredential` without an API server: its schema, its CEL
//! rules and its metadata are checked.
//!
//! The installed definition is the source of the schema and the rules, so both sides refuse the
//! same objects. A test sends the corpus in `tests/manifests/corpus` to a real API server and
//! compares the results.

mod metadata;
mod schema;

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use kube::core::cel::{CompiledSchema, ErrorKind, Validator, compile_schema};
use serde_json::Value;

/// Problem of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.regions[0].tag`. It is empty for the object as a whole.
    pub path: String,
    /// Description of the problem and of the fix.
    pub message: String,
}

impl Problem {
    /// Creates a problem of one field.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.message),
            false => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Kind of objects that users write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`PeerRelay`](super::PeerRelay).
    PeerRelay,
    /// [`TailnetCredential`](super::TailnetCredential).
    TailnetCredential,
}

impl Kind {
    /// All kinds that are checked.
    pub const ALL: [Self; 2] = [Self::PeerRelay, Self::TailnetCredential];

    /// Name of the kind in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PeerRelay => "PeerRelay",
            Self::TailnetCredential => "TailnetCredential",
        }
    }
}

/// Checks of the definition of a kind, compiled.
pub struct Admission {
    schema: JSONSchemaProps,
    rules: CompiledSchema,
    evaluator: Validator,
}

impl Admission {
    /// Compiles the checks of a kind.
    pub fn of(kind: Kind) -> Self {
        let mut schema = schema_of(kind);
        let mut json = serde_json::to_value(&schema).expect("a schema is plain data");
        without_old_self(&mut json);
        // The API server accepts these two fields in addition to those of the definition.
        let properties = schema.properties.get_or_insert_default();
        for own in ["apiVersion", "kind"] {
            properties.insert(own.to_owned(), schema::text());
        }
        Self {
            schema,
            rules: compile_schema(&json),
            evaluator: Validator::new(),
        }
    }

    /// Checks an object that is to be created, and adds the defaults of its definition.
    ///
    /// # Errors
    /// All problems for which the API server would refuse the object, each once.
    pub fn admit(&self, mut object: Value) -> Result<Value, Vec<Problem>> {
        let mut problems = metadata::check(&mut object);
        let taken = object.as_object_mut().and_then(|o| o.remove("metadata"));
        schema::unknown_fields(&self.schema, &object, &mut problems);
        if let Some(fields) = object.as_object_mut() {
            // The API server drops the status of a new object.
            fields.remove("status");
        }
        schema::fill_in(&self.schema, &mut object);
        let sound = schema::check(&self.schema, &object, &mut problems);
        if let Some((fields, metadata)) = object.as_object_mut().zip(taken) {
            fields.insert("metadata".to_owned(), metadata);
        }
        // A rule cannot be evaluated if a value is missing or has another type.
        if sound && object["metadata"]["name"].is_string() {
            self.rules(&object, &mut problems);
        }
        match problems.is_empty() {
            true => Ok(object),
            false => Err(problems),
        }
    }

    fn rules(&self, object: &Value, problems: &mut Vec<Problem>) {
        let Err(broken) = self.evaluator.validate_compiled(&self.rules, object, None) else {
            return;
        };
        // A rule may fail to evaluate on a value that the schema has refused already.
        let refused = !problems.is_empty();
        for rule in broken {
            if refused && rule.kind == ErrorKind::EvaluationError {
                continue;
            }
            let path = rule.field_path.trim_start_matches('.').to_owned();
            problems.retain(|known| !says_the_same(known, &path, &rule.message));
            problems.push(Problem::new(path, rule.message));
        }
    }
}

/// Removes the parts of rules about an earlier version of the object. A new object has none, and
/// kube-cel does not support the optional type of `oldSelf`.
fn without_old_self(json: &mut Value) {
    match json {
        Value::Object(fields) => {
            if fields.remove("optionalOldSelf") == Some(Value::Bool(true))
                && let Some(Value::String(rule)) = fields.get_mut("rule")
            {
                *rule = rule.replace("oldSelf.hasValue()", "false");
            }
            fields.values_mut().for_each(without_old_self);
        }
        Value::Array(entries) => entries.iter_mut().for_each(without_old_self),
        _ => {}
    }
}

/// Returns whether a rule of the parent field reports the same problem as the schema. The rule's
/// message, which begins with the field's name, is then preferred.
fn says_the_same(known: &Problem, parent: &str, message: &str) -> bool {
    let field = known
        .path
        .strip_prefix(parent)
        .map(|f| f.trim_start_matches('.'));
    let named = message.split([' ', ':']).next().unwrap_or_default();
    let named = named.rsplit('.').next().unwrap_or_default();
    field.is_some_and(|field| !field.is_empty() && field == named)
}

fn schema_of(kind: Kind) -> JSONSchemaProps {
    let mut definitions = super::all().into_iter();
    let definition = definitions.find(|definition| definition.spec.names.kind == kind.as_str());
    let mut versions = definition.expect("each kind is defined").spec.versions;
    let schema = versions.swap_remove(0).schema;
    schema
        .and_then(|schema| schema.open_api_v3_schema)
        .expect("each definition has a schema")
}

#[cfg(test)]
mod tests;
