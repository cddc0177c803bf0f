//! YAML and JSON in documents: whole objects, and parts that are completed before they are checked.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use peerrelay::config::RelayConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::block::Block;

/// Fields of a region that documents show alone.
const OF_REGIONS: [&str; 3] = ["endpoints", "exposure", "placement"];
/// Fields of other programs' objects that documents show alone.
const OF_OTHERS: [&str; 1] = ["healthCheckExprs"];

/// Returns what is wrong with a block of YAML.
pub(crate) fn problems(block: &Block) -> Vec<String> {
    let mut problems = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&block.text) {
        match Value::deserialize(document) {
            Ok(value) => problems.extend(problem(value)),
            Err(error) => {
                problems.push(error.to_string());
                break;
            }
        }
    }
    problems
}

fn problem(value: Value) -> Option<String> {
    let has_only = |names: &[&str]| {
        let fields = value.as_object();
        fields.is_some_and(|fields| fields.keys().all(|name| names.contains(&&**name)))
    };
    if value.get("kind").is_some() || value.get("spec").is_some() {
        let kind = value["kind"].as_str().unwrap_or("PeerRelay").to_owned();
        match &*kind {
            "PeerRelay" => validate(&completed(value)),
            "TailnetCredential" => validate(&value),
            _ => None,
        }
    } else if has_only(&OF_REGIONS) {
        let mut region = value;
        region["name"] = json!("office");
        region["clients"] = json!(["tag:office"]);
        validate(&completed(json!({"spec": {"regions": [region]}})))
    } else if has_only(&OF_OTHERS) {
        None
    } else {
        configuration(&value)
    }
}

/// A whole PeerRelay from a part of one.
fn completed(part: Value) -> Value {
    let mut relay = json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {"name": "edge", "namespace": "relays"},
        "spec": {
            "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
            "regions": [{"name": "office", "clients": ["tag:office"]}],
        },
    });
    let Value::Object(part) = part else {
        return part;
    };
    for (name, value) in part {
        match value {
            Value::Object(fields) if name == "spec" => {
                for (name, value) in fields {
                    relay["spec"][name] = value;
                }
            }
            value => relay[name] = value,
        }
    }
    relay
}

fn validate(object: &Value) -> Option<String> {
    accepted_by(&["validate", "-f", "-"], &object.to_string(), &[0])
}

/// Returns what is wrong with a policy, or with a part of one.
pub(crate) fn policy_problem(block: &Block) -> Option<String> {
    let text = match block.text.trim_start().starts_with('{') {
        true => block.text.clone(),
        false => format!("{{{}}}", block.text),
    };
    // With 3, the policy is valid and has findings.
    accepted_by(&["grants", "review", "-"], &text, &[0, 3])
}

fn accepted_by(words: &[&str], input: &str, codes: &[i32]) -> Option<String> {
    let mut process = Command::new(env!("CARGO_BIN_EXE_peerrelay"));
    process.args(words).stdin(Stdio::piped());
    process.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = process.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().unwrap_or(-1);
    let error = String::from_utf8_lossy(&output.stderr);
    (!codes.contains(&code)).then(|| format!("exit code {code}: {error}"))
}

/// Returns what is wrong with the configuration of a relay.
fn configuration(value: &Value) -> Option<String> {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("relay.yaml");
    fs::write(&file, value.to_string()).unwrap();
    match RelayConfig::read(&file) {
        Ok((_, unknown)) if unknown.is_empty() => None,
        Ok((_, unknown)) => Some(format!("unknown fields: {unknown:?}")),
        Err(error) => Some(format!("{error}: {:?}", std::error::Error::source(&error))),
    }
}

#[test]
fn mistakes_in_parts_of_objects_are_found() {
    let block = |text: &str| Block {
        place: String::new(),
        language: "yaml".to_owned(),
        text: text.to_owned(),
        not_run: None,
    };
    for wrong in [
        "spec: {prot: 1}",
        "exposure: {type: NodePort, nodePort: 70000}",
        "kind: PeerRelay\nspec: {regions: []}",
        "endpoints: {static: ['203.0.113.10']}",
        "authKeyFile: a\nendpoints: {static: ['203.0.113.10']}",
        "prot: 1",
        "port: abc",
        "a: [",
    ] {
        assert!(!problems(&block(wrong)).is_empty(), "{wrong}");
    }
    for right in ["spec: {port: 1}", "exposure: {type: NodePort}", "port: 1"] {
        assert_eq!(problems(&block(right)), Vec::<String>::new(), "{right}");
    }
    assert!(policy_problem(&block("{\"grants\": [}")).is_some());
    assert_eq!(policy_problem(&block("\"tagOwners\": {},")), None);
}
