#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use serde_json::{Value, json};

use super::*;

mod hosts;
mod peer_relays;
mod proxy_classes;

/// Label of the zone of a node.
const ZONE: &str = "topology.kubernetes.io/zone";

fn options() -> Options {
    Options {
        namespace: "relays".to_owned(),
        clients: vec!["tag:office".to_owned()],
        auth_key_secret: "tailnet-auth".to_owned(),
        node: None,
        zones: BTreeMap::new(),
    }
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "tailscale.com/v1alpha1", "kind": kind, "metadata": {"name": name},
        "spec": spec,
    })
}

/// Converts one document together with others, and returns the PeerRelay and its notes.
fn converted(documents: &[Value], options: &Options) -> (Value, Vec<Note>) {
    let import = import(documents, options);
    let relay = import.relays.into_iter().next().unwrap();
    (serde_yaml::from_str(&relay.yaml).unwrap(), relay.notes)
}

fn relay(spec: &Value) -> (Value, Vec<Note>) {
    converted(&[object("PeerRelay", "edge", spec)], &options())
}

/// Converts a PeerRelay with a ProxyClass.
fn with_class(class: &Value) -> (Value, Vec<Note>) {
    let relay = object("PeerRelay", "edge", &json!({"proxyClass": "own"}));
    converted(&[relay, object("ProxyClass", "own", class)], &options())
}

fn pod(pod: &Value) -> (Value, Vec<Note>) {
    with_class(&json!({"statefulSet": {"pod": pod}}))
}

fn host(prefs: Value, options: &Options) -> (Value, Vec<Note>) {
    let mut all = json!({
        "ControlURL": "https://controlplane.tailscale.com", "WantRunning": true, "CorpDNS": true,
        "Hostname": "vps-1", "RelayServerPort": 41_000, "AdvertiseTags": ["tag:relay"],
    });
    let fields = prefs.as_object().unwrap().clone();
    all.as_object_mut().unwrap().extend(fields);
    converted(&[all], options)
}

/// Returns the effect of the note about a path, if there is one.
fn effect(notes: &[Note], path: &str) -> Option<Effect> {
    let note = notes.iter().find(|note| note.place.path == path);
    note.map(|note| note.effect)
}

/// Returns the paths of settings that are not kept.
fn lost(notes: &[Note]) -> Vec<&str> {
    let lost = notes.iter().filter(|note| note.effect == Effect::Lost);
    lost.map(|note| &*note.place.path).collect()
}

#[test]
fn unknown_fields_are_named_at_every_depth() {
    let relay = json!({
        "apiVersion": "tailscale.com/v1alpha1", "kind": "PeerRelay", "extra": 1,
        "metadata": {"name": "edge", "extra": 1},
        "spec": {
            "extra": 1, "proxyClass": "own", "tailnet": "other", "service": {"extra": 1},
            "aws": {"extra": 1},
        },
        "status": {"anything": 1},
    });
    let class = json!({
        "extra": 1, "metrics": {"extra": 1, "serviceMonitor": {"extra": 1}},
        "tailscale": {"extra": 1},
        "statefulSet": {"extra": 1, "pod": {"extra": 1, "tailscaleContainer": {"extra": 1}}},
    });
    let tailnet = json!({"extra": 1, "credentials": {"extra": 1}});
    let documents = [
        relay,
        object("ProxyClass", "own", &class),
        object("Tailnet", "other", &tailnet),
    ];
    let (_, notes) = converted(&documents, &options());
    let mut found = lost(&notes);
    found.sort_unstable();
    let mut wanted = [
        "extra",
        "metadata.extra",
        "spec.extra",
        "spec.service.extra",
        "spec.aws.extra",
        "spec.extra",
        "spec.metrics.extra",
        "spec.metrics.serviceMonitor.extra",
        "spec.tailscale.extra",
        "spec.statefulSet.extra",
        "spec.statefulSet.pod.extra",
        "spec.statefulSet.pod.tailscaleContainer.extra",
        "spec.extra",
        "spec.credentials.extra",
    ];
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    let (_, notes) = host(json!({"Extra": 1}), &options());
    assert_eq!(lost(&notes), ["Extra"]);
}

#[test]
fn metadata_keeps_own_marks_and_no_marks_of_tools() {
    let document = json!({
        "apiVersion": "tailscale.com/v1alpha1", "kind": "PeerRelay",
        "metadata": {
            "name": "Edge.EU", "uid": "1", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [],
            "finalizers": ["tailscale.com/finalizer"],
            "labels": {"team": "net", "app.kubernetes.io/managed-by": "Helm"},
            "annotations": {
                "example.net/owner": "me", "argocd.argoproj.io/tracking-id": "x",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        "spec": {},
    });
    let (relay, notes) = converted(&[document], &options());
    let wanted = json!({
        "name": "edge-eu", "namespace": "relays", "labels": {"team": "net"},
        "annotations": {"example.net/owner": "me"},
    });
    assert_eq!(relay["metadata"], wanted);
    assert_eq!(lost(&notes), [""; 0]);
    for path in ["metadata.name", "metadata.labels", "metadata.annotations"] {
        assert_eq!(effect(&notes, path), Some(Effect::Changed), "{path}");
    }
}

#[test]
fn documents_that_are_no_relays_are_named_with_the_reason() {
    let documents = [
        json!({"apiVersion": "v1", "kind": "ConfigMap"}),
        object("Connector", "c", &json!({})),
        object("ProxyClass", "unused", &json!({})),
        json!({"apiVersion": "tailscale.com/v2", "kind": "PeerRelay"}),
        json!({"apiVersion": "peerrelay.dev/v1alpha1", "kind": "PeerRelay"}),
        json!({"ControlURL": "", "WantRunning": true, "CorpDNS": true}),
        json!("text"),
    ];
    let import = import(&documents, &options());
    assert!(import.relays.is_empty());
    let all: Vec<_> = import.unused.iter().map(|unused| unused.document).collect();
    assert_eq!(all, [0, 1, 2, 3, 4, 5, 6]);
    assert!(import.unused[5].reason.contains("RelayServerPort"));
}

#[test]
fn names_of_the_input_cannot_leave_the_comments() {
    for breaks in ["\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"] {
        let name = format!("x{breaks}spec: {{port: 1}}");
        let mut document = object("PeerRelay", &name, &json!({}));
        document["spec"][&name] = json!(1);
        let import = import(&[document], &options());
        let yaml = &import.relays[0].yaml;
        let comments = yaml.split("apiVersion").next().unwrap();
        let breaks_out = |line: &str| line != "---" && !line.starts_with('#');
        let parts = |c: char| ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'].contains(&c);
        let comments = comments.trim_end().split(parts);
        assert_eq!(
            comments.filter(|line| breaks_out(line)).count(),
            0,
            "{yaml}"
        );
    }
}
