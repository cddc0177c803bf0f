//! The value `credentials` of the chart: Secrets that the operator may read.

use serde_json::{Value, json};

use crate::chart::{RELEASE, objects, render};

#[test]
fn the_operator_may_read_the_secrets_of_its_credentials_and_no_others() {
    let entries = json!([
        {"namespace": "relays", "secrets": ["one", "two"]},
        {"namespace": "relays-eu", "secrets": ["three"]},
    ]);
    let Some(rendered) = render(&["--set-json", &format!("credentials={entries}")]) else {
        return;
    };
    let all = objects(&rendered.unwrap());
    let rules = |object: &Value| object["rules"].as_array().cloned().unwrap_or_default();
    let about_secrets = |rule: &Value| rule["resources"].to_string().contains("secrets");
    let mut found = Vec::new();
    for object in &all {
        for rule in rules(object).into_iter().filter(about_secrets) {
            assert_eq!(rule["verbs"], json!(["get"]));
            found.push((
                object["metadata"]["namespace"].clone(),
                rule["resourceNames"].clone(),
            ));
        }
    }
    let wanted = [
        (json!("relays"), json!(["one", "two"])),
        (json!("relays-eu"), json!(["three"])),
    ];
    assert_eq!(found, wanted);
    let role = format!("{RELEASE}-credentials");
    let bound = |o: &&Value| o["kind"] == "RoleBinding" && o["roleRef"]["name"] == role;
    assert_eq!(all.iter().filter(bound).count(), 2);
}

#[test]
fn credentials_that_cannot_work_are_refused_with_the_name_of_the_value() {
    for entries in [
        json!([{"namespace": "relays"}]),
        json!([{"secrets": ["one"]}]),
        json!([{"namespace": "relays", "secrets": []}]),
        json!([{"namespace": "A", "secrets": ["one"]}]),
        json!([{"namespace": "relays", "secrets": ["one"]}, {"namespace": "relays", "secrets": ["two"]}]),
    ] {
        let Some(rendered) = render(&["--set-json", &format!("credentials={entries}")]) else {
            return;
        };
        let Err(error) = rendered else {
            panic!("{entries} is rendered");
        };
        assert!(error.contains("credentials"), "{entries}: {error}");
    }
}
