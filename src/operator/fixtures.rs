//! PeerRelays for tests.

use serde_json::{Value, json};

use super::validate::{RelayImage, ValidSpec, validate};
use crate::crd::PeerRelay;

/// The smallest PeerRelay, as read from the API; `spec` replaces fields.
pub(crate) fn relay(spec: Value) -> PeerRelay {
    let mut whole = json!({
        "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
        "regions": [{"name": "office", "clients": ["tag:office"]}],
    });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {"name": "edge", "namespace": "relays", "uid": "u-1", "generation": 3},
        "spec": whole,
    }))
    .expect("the fixture is a PeerRelay")
}

/// The same, validated.
pub(crate) fn validated(spec: Value) -> ValidSpec {
    validate(&relay(spec), &image()).expect("the fixture is valid")
}

/// An image.
pub(crate) fn image() -> RelayImage {
    RelayImage {
        reference: "example.test/peerrelay:1".into(),
        pull_policy: "IfNotPresent".into(),
    }
}
