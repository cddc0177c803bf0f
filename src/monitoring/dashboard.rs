//! The dashboard: is a relay used, by how many, how fast, where does it drop.

use serde_json::{Value, json};

/// Title, unit, query.
const PANELS: &[(&str, &str, &str, &str)] = &[
    (
        "Relays ready",
        "none",
        "sum(peerrelay_ready{namespace=~\"$namespace\"})",
        "ready",
    ),
    (
        "Open sessions",
        "none",
        "sum by (node) (peerrelay_sessions{state=\"open\",namespace=~\"$namespace\"})",
        "{{node}}",
    ),
    (
        "Forwarded",
        "Bps",
        "sum by (node) (rate(peerrelay_forwarded_bytes_total{namespace=~\"$namespace\"}[$__rate_interval]))",
        "{{node}}",
    ),
    (
        "Packets",
        "pps",
        "sum by (node, data_path) (rate(peerrelay_forwarded_packets_total{namespace=~\"$namespace\"}[$__rate_interval]))",
        "{{node}} {{data_path}}",
    ),
    (
        "Devices that may use a relay",
        "none",
        "peerrelay_granted_peers{namespace=~\"$namespace\"}",
        "{{node}}",
    ),
    (
        "Binds by result",
        "ops",
        "sum by (result) (rate(peerrelay_binds_total{namespace=~\"$namespace\"}[$__rate_interval]))",
        "{{result}}",
    ),
    (
        "Drops by reason",
        "pps",
        "sum by (reason) (rate(peerrelay_drops_total{namespace=~\"$namespace\"}[$__rate_interval])) > 0",
        "{{reason}}",
    ),
    (
        "Datagrams lost at sockets",
        "pps",
        "sum by (node, cause) (rate(peerrelay_socket_lost_datagrams_total{namespace=~\"$namespace\"}[$__rate_interval]))",
        "{{node}} {{cause}}",
    ),
];

/// It, as Grafana imports it.
pub fn dashboard() -> Value {
    let panel = |(at, (title, unit, query, legend)): (usize, &(&str, &str, &str, &str))| {
        json!({
            "id": at + 1,
            "title": title,
            "type": "timeseries",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "gridPos": {"h": 8, "w": 12, "x": 12 * (at % 2), "y": 8 * (at / 2)},
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [{"refId": "A", "expr": query, "legendFormat": legend}],
        })
    };
    json!({
        "uid": "peer-relay",
        "title": "Peer relays",
        "tags": ["peerrelay"],
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {"name": "namespace", "type": "query", "includeAll": true, "multi": true, "current": {"text": "All", "value": "$__all"},
             "datasource": {"type": "prometheus", "uid": "${datasource}"},
             "query": "label_values(peerrelay_ready, namespace)", "refresh": 2},
        ]},
        "panels": PANELS.iter().enumerate().map(panel).collect::<Vec<_>>(),
    })
}
