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
fn the_operator_gets_a_token_for_each_audience_and_no_right() {
    let audiences = ["api.tailscale.com/kT1CNTRL", "api.example.net/k2"];
    let value = format!("workloadIdentity.audiences={}", json!(audiences));
    let (Some(without), Some(rendered)) = (render(&[]), render(&["--set-json", &value])) else {
        return;
    };
    let (without, all) = (objects(&without.unwrap()), objects(&rendered.unwrap()));
    let roles = |objects: &[Value]| -> Vec<Value> {
        let is_role = |o: &&Value| {
            o["kind"]
                .as_str()
                .is_some_and(|kind| kind.ends_with("Role"))
        };
        objects.iter().filter(is_role).cloned().collect()
    };
    assert_eq!(roles(&without), roles(&all));
    let deployment = all.iter().find(|o| o["kind"] == "Deployment").unwrap();
    let pod = &deployment["spec"]["template"]["spec"];
    let volume = &pod["volumes"][0];
    let sources = volume["projected"]["sources"].as_array().unwrap();
    let given: Vec<_> = sources
        .iter()
        .map(|s| &s["serviceAccountToken"]["audience"])
        .collect();
    assert_eq!(given, audiences);
    let mount = &pod["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    assert_eq!(mount["mountPath"], "/var/run/secrets/peerrelay.dev");
    assert_eq!(mount["readOnly"], true);
}

#[test]
fn no_role_of_the_chart_allows_to_write_tailnet_credentials() {
    let Some(rendered) = render(&[]) else { return };
    let all = objects(&rendered.unwrap());
    let rules = all.iter().filter_map(|object| object["rules"].as_array());
    let mut found = 0;
    for rule in rules.flatten() {
        if rule["resources"].to_string().contains("tailnetcredentials") {
            let verbs = rule["verbs"].as_array().unwrap();
            let reads = |verb: &Value| ["get", "list", "watch"].iter().any(|read| verb == read);
            assert!(verbs.iter().all(reads), "{rule}");
            found += 1;
        }
    }
    assert_eq!(found, 2, "the operator and users with the role view");
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
