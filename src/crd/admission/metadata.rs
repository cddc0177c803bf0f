//! Checks of `metadata` that the API server applies to every new object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::Problem;
use crate::names;

/// Number of characters of `generateName` that the API server keeps, and an example of the suffix
/// that it adds.
// `MaxGeneratedNameLength` and `randomLength` of k8s.io/apiserver/pkg/storage/names.
const GENERATED: (usize, &str) = (58, "00000");
/// Maximum size of all annotations together, in bytes.
// `TotalAnnotationSizeLimitB` of k8s.io/apimachinery/pkg/api/validation.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// Checks the metadata. An object with `generateName` gets a name of the length that the API server
/// would generate.
pub(super) fn check(object: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let given = &object["metadata"];
    if !given.is_object() && !given.is_null() {
        problems.push(Problem::new("metadata", "must be an object"));
        return problems;
    }
    let mut unknown = Vec::new();
    let note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
    let empty = Value::Object(serde_json::Map::new());
    let given = if given.is_null() { &empty } else { given };
    let metadata: ObjectMeta = match serde_ignored::deserialize(given, note) {
        Ok(metadata) => metadata,
        Err(error) => {
            problems.push(Problem::new(field_of_other_type(given), error.to_string()));
            return problems;
        }
    };
    problems.extend(unknown.into_iter().map(|field| {
        Problem::new(
            format!("metadata.{field}"),
            "unknown field: correct or remove it",
        )
    }));
    name(&metadata, object, &mut problems);
    if let Some(namespace) = &metadata.namespace
        && !namespace.is_empty()
        && !names::is_dns_label(namespace)
    {
        let message = "must be the name of a namespace: at most 63 lower-case letters, digits and \
                       dashes";
        problems.push(Problem::new("metadata.namespace", message));
    }
    labels(&metadata.labels.unwrap_or_default(), &mut problems);
    annotations(&metadata.annotations.unwrap_or_default(), &mut problems);
    for (at, finalizer) in metadata.finalizers.iter().flatten().enumerate() {
        if !names::is_qualified(finalizer) {
            let path = format!("metadata.finalizers[{at}]");
            problems.push(Problem::new(path, KEY));
        }
    }
    problems
}

/// Returns the field that is not a string although it should be. Labels and annotations are checked
/// first.
fn field_of_other_type(metadata: &Value) -> String {
    for map in ["labels", "annotations"] {
        let entries = metadata[map].as_object().into_iter().flatten();
        for (key, value) in entries {
            if !value.is_string() && !value.is_null() {
                return format!("metadata.{map}.{key}");
            }
        }
    }
    "metadata".to_owned()
}

fn name(metadata: &ObjectMeta, object: &mut Value, problems: &mut Vec<Problem>) {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let generated = given(&metadata.generate_name).map(|begin| {
        let kept: String = begin.chars().take(GENERATED.0).collect();
        kept + GENERATED.1
    });
    let own = given(&metadata.name);
    let path = match own {
        Some(_) => "metadata.name",
        None => "metadata.generateName",
    };
    let Some(name) = own.or(generated) else {
        problems.push(Problem::new("metadata.name", "is required, such as edge"));
        return;
    };
    if !names::is_dns_name(&name) {
        let message = "must be lower-case letters, digits, dashes and dots, and begin and end with \
                       a letter or digit";
        problems.push(Problem::new(path, message));
    }
    object["metadata"]["name"] = name.into();
}

const KEY: &str = "must be [DOMAIN/]NAME: a name of at most 63 letters, digits, '-', '_' and '.' that \
                   begins and ends with a letter or digit";

fn labels(labels: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    for (key, value) in labels {
        let path = format!("metadata.labels.{key}");
        if !names::is_qualified(key) {
            problems.push(Problem::new(path, KEY));
        } else if !value.is_empty() && !names::is_label_value(value) {
            let message = "must have at most 63 letters, digits, '-', '_' and '.', and begin and \
                           end with a letter or digit";
            problems.push(Problem::new(path, message));
        }
    }
}

fn annotations(annotations: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MOST_ANNOTATIONS {
        let message = "must have at most 256 KiB together";
        problems.push(Problem::new("metadata.annotations", message));
    }
    for key in annotations.keys() {
        // Keys of annotations may have a domain with capitals, unlike those of labels
        // (`ValidateAnnotations`).
        if !names::is_qualified(&key.to_lowercase()) {
            problems.push(Problem::new(format!("metadata.annotations.{key}"), KEY));
        }
    }
}
