//! Snapshots of a PeerRelay and its children, without what differs between two lives of the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use rig::names::NAMESPACE;
use serde_json::Value;

use super::{
    api::{Api, Resource},
    names::{LAST_NAMED_PORT, other_name, relay_path},
};

/// Label of everything that the operator makes.
const MANAGED: &str = "app.kubernetes.io/managed-by=peerrelay-operator";

/// Normalised objects by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The objects by kind and name.
    pub objects: BTreeMap<String, String>,
    /// Their identities.
    pub uids: BTreeMap<String, String>,
}

impl Snapshot {
    /// Objects that are the very same as before.
    pub fn kept(&self, before: &Self) -> BTreeSet<String> {
        let same = self
            .uids
            .iter()
            .filter(|(key, uid)| before.uids.get(*key) == Some(*uid));
        same.map(|(key, _)| key.clone()).collect()
    }

    /// The snapshot without the numbers of changes of the objects.
    pub fn without_generations(&self) -> Self {
        let mut plain = self.clone();
        for text in plain.objects.values_mut() {
            let mut object: Value = serde_json::from_str(text).unwrap_or_default();
            drop_generations(&mut object);
            *text = object.to_string();
        }
        plain
    }

    /// The differences, as text.
    pub fn differences(&self, wanted: &Self) -> String {
        let keys: BTreeSet<_> = self.objects.keys().chain(wanted.objects.keys()).collect();
        let mut text = String::new();
        for key in keys {
            let (is, was) = (self.objects.get(key), wanted.objects.get(key));
            if is != was {
                let show =
                    |side: Option<&String>| side.map_or("nothing", String::as_str).to_owned();
                text += &format!("{key}:\n  is     {}\n  wanted {}\n", show(is), show(was));
            }
        }
        text
    }
}

/// Kinds that the operator may create, by the rules of its role.
pub fn kinds(api: &Api, rules: &[Value]) -> Vec<Resource> {
    let texts = |rule: &Value, field: &str| -> Vec<String> {
        let list = rule[field].as_array().into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned))
            .collect()
    };
    let mut kinds = Vec::new();
    for rule in rules {
        let verbs = texts(rule, "verbs");
        if !["list", "delete"]
            .iter()
            .all(|verb| verbs.iter().any(|v| v == verb))
        {
            continue;
        }
        for group in texts(rule, "apiGroups") {
            for plural in texts(rule, "resources") {
                // Kinds of other projects may not be installed.
                kinds.extend(api.resource(&group, &plural).cloned());
            }
        }
    }
    kinds
}

/// Takes a snapshot of a PeerRelay, of the other one beside it if there is one, and of their children.
pub async fn snapshot(api: &Api, kinds: &[Resource], name: &str) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    let relay = api.find(&relay_path(name)).await?;
    let other = api.find(&relay_path(&other_name(name))).await?;
    let owners = [(&relay, "OWNER"), (&other, "OTHER")].map(|(relay, word)| {
        let uid = relay.as_ref()?["metadata"]["uid"].as_str()?;
        Some((uid.to_owned(), word))
    });
    let mut add = |kind: &str, object: &Value| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = format!("{kind}/{}", text("name"));
        let key = without_hashes(&key).replace(name, "NAME");
        snapshot.uids.insert(key.clone(), text("uid").to_owned());
        let mut text = without_hashes(&normalised(object).to_string()).replace(name, "NAME");
        for (uid, word) in owners.iter().flatten() {
            text = text.replace(uid, word);
        }
        snapshot.objects.insert(key, text);
    };
    for relay in [&relay, &other].into_iter().flatten() {
        add("PeerRelay", relay);
    }
    for kind in kinds {
        let path = format!("{}?labelSelector={MANAGED}", kind.path(NAMESPACE, ""));
        let list = api.read(&path).await?;
        for object in list["items"].as_array().into_iter().flatten() {
            if object["metadata"]["name"]
                .as_str()
                .is_some_and(|n| n.contains(name))
            {
                add(&kind.kind, object);
            }
        }
    }
    Ok(snapshot)
}

fn normalised(object: &Value) -> Value {
    let mut object = object.clone();
    let is_relay = object["kind"] == "PeerRelay";
    let Some(fields) = object.as_object_mut() else {
        return object;
    };
    // Lists do not repeat them for each item.
    fields.remove("apiVersion");
    fields.remove("kind");
    if !is_relay {
        // Written by Kubernetes' own controllers in their own time.
        fields.remove("status");
    }
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations
                .retain(|key, _| !key.starts_with("deprecated.") && !key.starts_with("kubectl."));
        }
    }
    blur(&mut object);
    object
}

/// Long names end in a checksum, of 8 digits, that covers the PeerRelay's own name.
fn without_hashes(text: &str) -> String {
    let is_hash = |part: &str| {
        let digits = part.chars().take_while(char::is_ascii_hexdigit).count();
        let ends = |c: char| !c.is_ascii_alphanumeric();
        digits == 8 && part[8..].chars().next().is_none_or(ends)
    };
    let mut parts = text.split('-');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push('-');
        if is_hash(part) {
            plain.push('#');
            plain += &part[8..];
        } else {
            plain += part;
        }
    }
    plain
}

fn drop_generations(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, _| key != "generation" && key != "observedGeneration");
            fields.values_mut().for_each(drop_generations);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_generations),
        _ => {}
    }
}

/// Times, checksums (they cover names), and the addresses and ports that the API server chose.
fn blur(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let chosen = match &**key {
                    // Nobody names it; a load balancer asks there whether a node has relays.
                    "lastTransitionTime" | "healthCheckNodePort" => true,
                    "nodePort" => field.as_u64() > Some(LAST_NAMED_PORT.into()),
                    key => key.starts_with("clusterIP"),
                };
                if chosen {
                    *field = Value::Null;
                }
                blur(field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(blur),
        Value::String(text) => {
            let hex = |c: char| c.is_ascii_hexdigit();
            if text.len() >= 16 && text.len() != 36 && text.chars().all(hex) {
                *text = "#".into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn checksums_at_the_end_of_names_are_told_from_names() {
        assert_eq!(without_hashes("a-n1-c75bc8b6"), "a-n1-#");
        assert_eq!(without_hashes("\"a-n1-c75bc8b6\", b-1"), "\"a-n1-#\", b-1");
        assert_eq!(without_hashes("a-c75bc8b6f-n1"), "a-c75bc8b6f-n1");
    }
    #[test]
    fn ports_that_the_api_server_chose_are_blurred_and_named_ones_are_not() {
        let mut service = json!({
            "clusterIP": "10.96.0.7", "healthCheckNodePort": 31_742, "targetPort": 9_440,
            "ports": [{"nodePort": 30_001}, {"nodePort": 32_053}],
        });
        blur(&mut service);
        let wanted = json!({
            "clusterIP": null, "healthCheckNodePort": null, "targetPort": 9_440,
            "ports": [{"nodePort": 30_001}, {"nodePort": null}],
        });
        assert_eq!(service, wanted);
    }
}
