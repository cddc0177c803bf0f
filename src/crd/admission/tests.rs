#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::json;

use super::*;

/// Keywords of a schema that are checked here, or that say nothing about values.
const KNOWN: &[&str] = &[
    "additionalProperties",
    "default",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

#[test]
fn every_keyword_of_the_definition_is_checked() {
    fn look(schema: &Value, path: &str) {
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            assert!(
                KNOWN.contains(&&**keyword),
                "{path}: {keyword} is not checked"
            );
            match &**keyword {
                "properties" => value
                    .as_object()
                    .unwrap()
                    .iter()
                    .for_each(|(name, schema)| look(schema, &format!("{path}.{name}"))),
                "items" | "additionalProperties" => look(value, &format!("{path}.{keyword}")),
                _ => {}
            }
        }
    }
    for kind in Kind::ALL {
        look(&serde_json::to_value(schema_of(kind)).unwrap(), "");
    }
}

#[test]
fn every_rule_and_pattern_can_be_evaluated() {
    fn rules(schema: &CompiledSchema) -> usize {
        for rule in &schema.validations {
            assert!(rule.is_ok(), "{:?}", rule.as_ref().err());
        }
        let below = schema.properties.values().chain(schema.items.as_deref());
        schema.validations.len() + below.map(rules).sum::<usize>()
    }
    fn patterns(schema: &JSONSchemaProps) {
        if let Some(pattern) = &schema.pattern {
            let built = regex::bytes::RegexBuilder::new(pattern)
                .unicode(false)
                .build();
            assert!(built.is_ok(), "{pattern}: {built:?}");
        }
        schema
            .properties
            .iter()
            .flatten()
            .for_each(|(_, schema)| patterns(schema));
    }
    for (kind, least) in [(Kind::PeerRelay, 15), (Kind::TailnetCredential, 5)] {
        let admission = Admission::of(kind);
        assert!(rules(&admission.rules) >= least, "{kind:?}");
        let mut json = serde_json::to_value(schema_of(kind)).unwrap();
        without_old_self(&mut json);
        let text = json.to_string();
        assert!(
            !text.contains("oldSelf.") || !text.contains("optionalOldSelf"),
            "a rule needs the earlier version of an object that is created"
        );
        assert!(!text.contains("oldSelf.hasValue()"));
        patterns(&admission.schema);
    }
}

#[test]
fn defaults_replace_nulls_that_are_not_allowed() {
    let object = admit(json!({"port": null, "maxRelays": null})).unwrap();
    assert_eq!(object["spec"]["port"], 40_000);
    assert_eq!(object["spec"]["maxRelays"], Value::Null);
    assert_eq!(object["spec"]["monitoring"]["serviceMonitor"], "Auto");
}

#[test]
fn a_rule_that_names_the_field_stands_for_the_schema() {
    let regions = json!([{"name": "a", "tag": "*", "clients": ["tag:a"]}]);
    let problems = admit(json!({"regions": regions})).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].message.starts_with("tag must not be '*'"));
}

#[test]
fn a_value_that_no_rule_can_be_computed_over_is_told_once() {
    let problems = admit(json!({"monitoring": {"interval": "soon"}})).unwrap_err();
    let paths: Vec<_> = problems.iter().map(|problem| &*problem.path).collect();
    assert_eq!(paths, ["spec.monitoring.interval"], "{problems:?}");
}

#[test]
fn a_name_may_be_generated() {
    let mut object = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "PeerRelay",
        "metadata": {"generateName": "edge-"},
        "spec": {"tailnet": {"authKey": {"secretName": "a"}}, "regions": [{"name": "a", "clients": ["tag:a"]}]},
    });
    assert!(Admission::of(Kind::PeerRelay).admit(object.clone()).is_ok());
    object["metadata"]["generateName"] = "x".repeat(36).into();
    let problems = Admission::of(Kind::PeerRelay).admit(object).unwrap_err();
    assert!(
        problems[0].message.contains("at most 40 characters"),
        "{problems:?}"
    );
}

fn admit(spec: Value) -> Result<Value, Vec<Problem>> {
    let mut object = json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {"name": "edge"},
        "spec": {
            "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
            "regions": [{"name": "office", "clients": ["tag:office"]}],
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    Admission::of(Kind::PeerRelay).admit(object)
}
