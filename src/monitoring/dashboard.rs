//! Dashboard of relays and operator: use, throughput, latency, drops, and the operator's health.

mod panels;

use serde_json::{Value, json};

use self::panels::{Panel, ROWS};
use crate::names;

/// Number of columns of a row in Grafana.
const WIDTH: usize = 24;

/// Variables of the dashboard: name, title, label, and the series that have it, filtered by the
/// variables before.
const VARIABLES: [(&str, &str, &str, &str); 4] = [
    ("namespace", "Namespace", "namespace", "peerrelay_ready"),
    (
        "peer_relay",
        "PeerRelay",
        "peer_relay",
        "peerrelay_ready{namespace=~\"$namespace\"}",
    ),
    (
        "region",
        "Region",
        "relay_region",
        "peerrelay_ready{namespace=~\"$namespace\",peer_relay=~\"$peer_relay\"}",
    ),
    (
        "node",
        "Node",
        "node",
        "peerrelay_ready{namespace=~\"$namespace\",peer_relay=~\"$peer_relay\",relay_region=~\"$region\"}",
    ),
];

/// PeerRelays that a dashboard shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown<'a> {
    /// The dashboard shows all PeerRelays, which variables filter.
    All,
    /// The dashboard shows one PeerRelay.
    One {
        /// Namespace of the PeerRelay.
        namespace: &'a str,
        /// Name of the PeerRelay.
        name: &'a str,
    },
}

/// Returns the dashboard in the format of a Grafana import. Dashboards of different PeerRelays have
/// different UIDs and titles, because Grafana replaces a dashboard by one with the same UID.
pub fn dashboard(shown: Shown<'_>) -> Value {
    let (uid, title) = match shown {
        Shown::All => ("peer-relay".to_owned(), "Peer relays".to_owned()),
        Shown::One { namespace, name } => (
            own_uid(namespace, name),
            format!("Peer relay {namespace}/{name}"),
        ),
    };
    let mut variables = vec![json!({
        "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
    })];
    variables.extend(
        VARIABLES
            .iter()
            .map(|variable| self::variable(variable, shown)),
    );
    json!({
        "uid": uid,
        "title": title,
        "tags": ["peerrelay"],
        "annotations": {"list": []},
        "schemaVersion": 39,
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        // Grafana's number for a crosshair that all panels share.
        "graphTooltip": 1,
        "templating": {"list": variables},
        "panels": panels(),
    })
}

/// Returns the UID of the dashboard of one PeerRelay, at most 40 characters as Grafana allows.
fn own_uid(namespace: &str, name: &str) -> String {
    let digest = names::digest(format!("{namespace}/{name}"), 8);
    format!("peer-relay-{digest}")
}

fn variable((name, title, label, series): &(&str, &str, &str, &str), shown: Shown<'_>) -> Value {
    let fixed = match (shown, *name) {
        (Shown::One { namespace, .. }, "namespace") => Some(namespace),
        (Shown::One { name, .. }, "peer_relay") => Some(name),
        _ => None,
    };
    if let Some(value) = fixed {
        return json!({
            // Grafana's number for a variable that is not shown.
            "name": name, "label": title, "type": "constant", "hide": 2, "query": value,
            "current": {"text": value, "value": value},
        });
    }
    // The option "all" includes series without the label: those of relays that are scraped by
    // annotations.
    json!({
        "name": name, "label": title, "type": "query",
        // Grafana's numbers: values are read at each change of the time range, and are in alphabetical
        // order.
        "query": format!("label_values({series}, {label})"), "refresh": 2, "sort": 1,
        "datasource": datasource(),
        "includeAll": true, "multi": true, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    })
}

fn panels() -> Vec<Value> {
    let mut panels = Vec::new();
    let (mut id, mut y) = (0, 0);
    for (title, height, row) in ROWS {
        id += 1;
        panels.push(json!({
            "id": id, "title": title, "type": "row", "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
        }));
        y += 1;
        let mut x = 0;
        for shown in *row {
            id += 1;
            if x + shown.width > WIDTH {
                x = 0;
                y += height;
            }
            let place = json!({"h": height, "w": shown.width, "x": x, "y": y});
            panels.push(panel(id, place, shown));
            x += shown.width;
        }
        y += height;
    }
    panels
}

fn panel(id: usize, place: Value, shown: &Panel) -> Value {
    let letters = ["A", "B", "C", "D"];
    let targets = letters.iter().zip(shown.queries);
    let targets = targets.map(|(letter, (query, legend))| {
        json!({
            "refId": letter, "expr": panels::query(query), "legendFormat": legend,
            "datasource": datasource(),
        })
    });
    let mut defaults = json!({"unit": shown.unit});
    if shown.from_zero {
        defaults["min"] = json!(0);
    }
    if !shown.steps.is_empty() {
        let steps = shown
            .steps
            .iter()
            .map(|(value, color)| json!({"value": value, "color": color}));
        defaults["thresholds"] = json!({"mode": "absolute", "steps": steps.collect::<Vec<_>>()});
    }
    json!({
        "id": id,
        "title": shown.title,
        "description": shown.description,
        "type": shown.kind,
        "datasource": datasource(),
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets.collect::<Vec<_>>(),
    })
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn dashboards_of_different_peer_relays_do_not_collide() {
        let pairs = [("a-b", "c"), ("a", "b-c"), ("a", "c")];
        let all = pairs.map(|(namespace, name)| dashboard(Shown::One { namespace, name }));
        let uids: BTreeSet<_> = all
            .iter()
            .chain([&dashboard(Shown::All)])
            .map(|board| board["uid"].to_string())
            .collect();
        assert_eq!(uids.len(), 4);
        assert!(uids.iter().all(|uid| uid.len() <= 42));
    }

    #[test]
    fn one_peer_relays_dashboard_shows_no_other() {
        let board = dashboard(Shown::One {
            namespace: "relays",
            name: "edge",
        });
        let variables = board["templating"]["list"].as_array().into_iter().flatten();
        let fixed: Vec<_> = variables
            .filter(|variable| variable["type"] == "constant")
            .map(|variable| variable["query"].clone())
            .collect();
        assert_eq!(fixed, ["relays", "edge"]);
    }

    #[test]
    fn panels_have_ids_of_their_own_and_do_not_overlap() {
        let board = dashboard(Shown::All);
        let panels = board["panels"].as_array().cloned().unwrap_or_default();
        let mut cells = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in &panels {
            assert!(ids.insert(panel["id"].as_u64()), "{}", panel["title"]);
            let at = |side: &str| panel["gridPos"][side].as_u64().unwrap_or_default();
            assert!(at("x") + at("w") <= WIDTH as u64);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{} overlaps", panel["title"]);
                }
            }
        }
    }
}
