//! Specifications of PeerRelays: the smallest one, and those that differ from it in one field.

use serde_json::{Value, json};

use crate::names::{NAMESPACE, SECRET};

/// The smallest PeerRelay, with the fields of `spec` in place of its own.
pub fn peer_relay(name: &str, spec: &Value) -> Value {
    let mut relay = json!({
        "apiVersion": "peerrelay.dev/v1alpha1", "kind": "PeerRelay",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"tailnet": smallest_tailnet(), "regions": [smallest_region()]},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        relay["spec"][field] = value.clone();
    }
    relay
}

/// A specification that sets one field of `tailnet`.
pub fn tailnet(field: &str, value: Value) -> Value {
    let mut tailnet = smallest_tailnet();
    tailnet[field] = value;
    json!({"tailnet": tailnet})
}

/// A specification that sets one field of its only region.
pub fn region(field: &str, value: Value) -> Value {
    let mut region = smallest_region();
    region[field] = value;
    json!({"regions": [region]})
}

fn smallest_tailnet() -> Value {
    json!({"authKey": {"secretName": SECRET}})
}

fn smallest_region() -> Value {
    json!({"name": "office", "clients": ["tag:office"]})
}
